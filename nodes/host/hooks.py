"""Hooks whose strength follows keyframes, on the way up."""

import math
from typing import Any

from torch import Tensor


class HookSchedules:
    """Hooks whose strength follows keyframes, for calls at sigmas in any order.

    The host's bookkeeping only goes on to the next keyframe, as sigmas fall, and stays on the hooks when a run is over.
    So a run gets hooks of its own, and before a call further up they are brought to where a sampler would have them.
    """

    def __init__(self, guider: Any, sigmas: Tensor) -> None:
        self.patcher, self.sigmas, self.last = guider.model_patcher, sigmas, -math.inf
        self.hooks: list[tuple[Any, Any]] = []  # this run's hooks and their untouched keyframes
        own: dict[int, Any] = {}
        for cond in (cond for conds in getattr(guider, "conds", {}).values() for cond in conds):
            hooks = cond.get("hooks")
            if hooks is None or all(len(hook.hook_keyframe.keyframes) < 2 for hook in hooks.hooks):
                continue
            if id(hooks) not in own:
                own[id(hooks)] = hooks.clone()
                self.hooks += [(hook, hook.hook_keyframe) for hook in own[id(hooks)].hooks]
            cond["hooks"] = own[id(hooks)]  # in the guider's own copy of the conditioning

    def prepare(self, sigma: float, model_options: dict) -> None:
        """Have the strengths of `sigma` in the next call."""
        if self.hooks and sigma > self.last:
            fresh: dict[int, Any] = {}
            for hook, keyframes in self.hooks:
                hook.hook_keyframe = fresh.setdefault(id(keyframes), keyframes.clone())
            for above in self.sigmas[self.sigmas > sigma]:
                for keyframes in fresh.values():
                    keyframes.prepare_current_keyframe(above, model_options["transformer_options"])
            self.patcher.clear_cached_hook_weights()  # those of another sigma's strengths
        self.last = sigma
