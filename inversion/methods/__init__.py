"""Inversion methods. Each file is one method: its source, its cost in model calls, and where code and paper differ."""

from .ddim import DDIM as DDIM
from .easyinv import EasyInv as EasyInv
from .fixed_point import FixedPoint as FixedPoint
from .guided_newton import GuidedNewton as GuidedNewton
from .rex import Rex as Rex
