"""The pre-training objective: views and masks, loss terms, and their weighted sum."""

from cvmae.objective.terms import TERMS, LossTerm, find_term, register, registered_terms, unregister

__all__ = ["TERMS", "LossTerm", "find_term", "register", "registered_terms", "unregister"]
