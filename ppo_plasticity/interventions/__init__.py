"""Interventions against loss of plasticity: small pieces that change one thing of a learner each.

    actor = parse("redo:every=100,threshold=0.1")     # or ReDo(every=100, threshold=0.1)
    both = Interventions([actor, parse("l2_init")])   # several as one

How learners call them is told in `base`; `attach.ModuleHandle` attaches them to a plain module.
"""

from ppo_plasticity.interventions.adam_betas import AdamBetas
from ppo_plasticity.interventions.adam_rel import AdamRel
from ppo_plasticity.interventions.attach import Interventions, ModuleHandle
from ppo_plasticity.interventions.base import Handle, Intervention, LossInputs
from ppo_plasticity.interventions.churn import Churn
from ppo_plasticity.interventions.continual_backprop import ContinualBackprop
from ppo_plasticity.interventions.crelu import ConcatenatedReLU
from ppo_plasticity.interventions.head_reset import HeadReset
from ppo_plasticity.interventions.injection import Injection
from ppo_plasticity.interventions.kl_penalty import KLPenalty
from ppo_plasticity.interventions.l2 import L2
from ppo_plasticity.interventions.l2_init import L2Init
from ppo_plasticity.interventions.layer_norm import LayerNorm
from ppo_plasticity.interventions.nap import NaP
from ppo_plasticity.interventions.options import describe, options_of, parse_with
from ppo_plasticity.interventions.parseval import Parseval
from ppo_plasticity.interventions.pfo import PFO
from ppo_plasticity.interventions.redo import ReDo
from ppo_plasticity.interventions.reset_adam import ResetAdam
from ppo_plasticity.interventions.shrink_perturb import ShrinkPerturb
from ppo_plasticity.interventions.spectral import Spectral
from ppo_plasticity.interventions.weight_clipping import WeightClipping

INTERVENTIONS: dict[str, type[Intervention]] = {
    "adam_betas": AdamBetas,
    "adam_rel": AdamRel,
    "churn": Churn,
    "continual_backprop": ContinualBackprop,
    "crelu": ConcatenatedReLU,
    "head_reset": HeadReset,
    "injection": Injection,
    "kl_penalty": KLPenalty,
    "l2": L2,
    "l2_init": L2Init,
    "layer_norm": LayerNorm,
    "nap": NaP,
    "parseval": Parseval,
    "pfo": PFO,
    "redo": ReDo,
    "reset_adam": ResetAdam,
    "shrink_perturb": ShrinkPerturb,
    "spectral": Spectral,
    "weight_clipping": WeightClipping,
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
