"""Interventions against loss of plasticity: small pieces that change one thing of a learner each.

    actor = parse("redo:every=100,threshold=0.1")     # or ReDo(every=100, threshold=0.1)
    both = Interventions([actor, parse("l2_init")])   # several as one

How learners call them is told in `base`; `attach.ModuleHandle` attaches them to a plain module.
"""

from ppo_plasticity.interventions.adam_betas import AdamBetas
from ppo_plasticity.interventions.adam_rel import AdamRel
from ppo_plasticity.interventions.attach import Interventions, ModuleHandle
from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.l2 import L2
from ppo_plasticity.interventions.l2_init import L2Init
from ppo_plasticity.interventions.options import describe, options_of, parse_with
from ppo_plasticity.interventions.pfo import PFO
from ppo_plasticity.interventions.reset_adam import ResetAdam

INTERVENTIONS: dict[str, type[Intervention]] = {
    "adam_betas": AdamBetas,
    "adam_rel": AdamRel,
    "l2": L2,
    "l2_init": L2Init,
    "pfo": PFO,
    "reset_adam": ResetAdam,
}
"""All interventions by the names that `parse` reads."""

__all__ = [
    "INTERVENTIONS",
    "Handle",
    "Intervention",
    "Interventions",
    "LossInputs",
    "ModuleHandle",
    "describe",
    "options_of",
    "parse",
]


def parse(text: str) -> Intervention:
    """Return the intervention that `text` describes, `"redo"` or `"redo:every=100,threshold=0.1"`.

    Raises:
        ValueError: a name, an option or a value is wrong; its one line says what was given, what is
            allowed with defaults, and the nearest match.
    """
    return parse_with(INTERVENTIONS, text)
