"""The seam: the only room that touches the host's own objects. A file is one of them.

guider    MODEL and CONDITIONING as a `Denoiser`, run by the host's CFGGuider
latents   LATENT to the model's state space and back
sigmas    SIGMAS and schedules as a `Grid`
masks     MASK and noise_mask at the size of a latent, and back
noise     NOISE that starts a sampler at an inverted latent; the noise of an ancestral sampler
record    what a LATENT carries from an Invert node to Edit From Latent
conditioning    the prompt that travels in a record
batch     a LATENT whose batch was repeated, cut or put together since
sampler   the host's samplers, run on a departure
draws     models that draw random numbers, or do not answer the same way twice
attention, hooks, gradient    what a model patch, a hook or a Newton step needs of the host
"""

from .guider import HostDenoiser as HostDenoiser
from .guider import Walk as Walk
from .guider import guider_for as guider_for
from .guider import on_cpu as on_cpu
from .guider import run as run
from .latents import kind as kind
from .latents import model_kind as model_kind
from .latents import samples_for as samples_for
from .latents import to_samples as to_samples
from .latents import to_state as to_state
from .noise import InvertedNoise as InvertedNoise
from .noise import fixed_noise as fixed_noise
from .sigmas import UNI_PC as UNI_PC
from .sigmas import chosen_grid as chosen_grid
from .sigmas import grid_of as grid_of
from .sigmas import lasting_sigmas as lasting_sigmas
from .sigmas import left_by_uni_pc as left_by_uni_pc
from .sigmas import scheduled_sigmas as scheduled_sigmas
