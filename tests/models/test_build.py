"""Modules are built of a config: every part of them that computes on a mesh has its rules."""

import dataclasses

import flax.linen as nn
import pytest

from cvmae.models import build
from cvmae.models.probes import AttentiveProbe
from cvmae.models.vit import TransformerConfig
from cvmae.parallel.mesh import local_mesh, make_rules
from tests.tiny_configs import config, downstream


def rules_within(part) -> list:
    """Returns the rules of every TransformerConfig and probe within a module."""
    if isinstance(part, (TransformerConfig, AttentiveProbe)):
        return [part.rules]
    if not dataclasses.is_dataclass(part):
        return []
    names = [field.name for field in dataclasses.fields(part) if field.name not in ("parent", "name")]
    return [rules for name in names for rules in rules_within(getattr(part, name))]


BUILDERS = {
    "model": (lambda rules: build.build_model(config(), rules), 4),
    "classifier": (lambda rules: build.build_classifier(downstream("finetune"), 2, rules), 1),
    "probe": (lambda rules: build.build_probe(downstream("attentive"), 2, rules), 1),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_rules_reach_every_stack_of_blocks(name):
    builder, count = BUILDERS[name]
    c = config()
    rules = make_rules(local_mesh(), c.sharding)
    module = builder(rules)
    assert isinstance(module, nn.Module)
    assert rules_within(module) == [rules] * count and rules_within(builder(None)) == [None] * count
    assert hash(module) == hash(builder(make_rules(local_mesh(), c.sharding)))  # static under jit
