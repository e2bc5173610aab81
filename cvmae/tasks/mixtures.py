"""Checks of config.data.mixture, before and after its sources are opened."""

from cvmae.config import ConfigError, config_errors, require
from cvmae.data.mixture import Mixture, sections
from cvmae.objective.terms import registered_terms


def check_mixture(config) -> dict:
    """Returns the sections of the sources of config.data.mixture by name; {} without one.

    Raises:
      ConfigError: the mixture, a section or the task does not go with it; the message names the field.
    """
    data = config.data
    with config_errors():
        own = sections(data)
    if not own:
        return own
    mixture = f"config.data.mixture={data.mixture!r}"
    require(
        config.task == "pretrain",
        f"{mixture} is for pre-training, task={config.task!r} has one source: leave it out, and set config.data.source",
    )
    require(
        data.source != "custom",
        f"{mixture} does not go with cvmae.run(..., source=...): give one source that draws from several, or leave the mixture out",
    )
    require(
        not config.report.labelled,
        f"{mixture} with config.report.labelled={config.report.labelled}: class numbers of several sources mean different classes; set "
        "--config.report.labelled=0, and probe the encoder on one of them by task=linear",
    )
    for name in own:
        require(
            name not in {term.name for term in registered_terms()},
            f"{mixture}: {name!r} is the name of a loss term, whose loss is logged as loss/{name}: take another name",
        )
    return own


def check_shares(mixture: Mixture, batch_size: int) -> None:
    """Raises ConfigError where a batch would hold a clip of a source twice, which would then be its own negative."""
    total = sum(mixture.weights.values())
    for number, (name, weight) in enumerate(mixture.weights.items()):
        low, high = mixture.range_of(number)
        share = -(-batch_size * weight // total)
        if high - low < share:
            raise ConfigError(
                f"config.data.mixture: {name} has {high - low} clips, and a batch of {batch_size} takes {share} of it: a clip would be its "
                f"own negative; lower the weight of {name} or config.batch_size"
            )
