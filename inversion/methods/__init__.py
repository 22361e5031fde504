"""Inversion methods. Each file is one method: its source, its cost in model calls, and where code and paper differ."""

from .ddim import DDIM as DDIM
from .easyinv import EasyInv as EasyInv
