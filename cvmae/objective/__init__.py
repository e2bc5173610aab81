"""The pre-training objective: views and masks, loss terms, and their weighted sum."""

from cvmae.objective.terms import BUILT_IN, TERMS, LossTerm, find_term, register, registered_terms, unregister

__all__ = ["BUILT_IN", "TERMS", "LossTerm", "find_term", "register", "registered_terms", "unregister"]
