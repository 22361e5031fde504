"""Between inverted latents: a path from one to another, the middle of several, and new noise near them.

The norm of d standard Gaussian numbers is near sqrt(d), by the chi distribution, and a model has seen no other noise;
the straight line between two noises dips to sqrt(d/2). Norm-guided latent space exploration (NAO: Samuel et al., arXiv
2306.08687, where SeedSelect, arXiv 2304.14530, starts from to draw rare concepts) therefore measures a path by how
unlikely the norms on it are,

    length = integral of cost(|x|) |dx|,    cost(r) = -log chi_d(r),

takes the shortest path between two seeds, and as the centroid of several the point with the least sum of such lengths
to them. The authors move points by gradient descent in all d dimensions; here both problems are solved, as
`interpolate` and `centroid` say.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from .errors import InversionError
from .metrics import double
from .noise import noise_scale
from .record import Inversion

Path = Literal["spherical", "linear", "norm-aware"]
PATHS: tuple[Path, ...] = get_args(Path)
LAYERS = 400  # of each leg of a norm-aware path
GRAZING = 1 - 1e-12  # share of Bouguer's constant at which a path runs along its cheapest layer
PARALLEL = 1e-6  # angle below which two directions count as one; the rounding of float32 states makes less
NOWHERE = 1e-100  # the norm of a zero state, which needs a logarithm
ROUNDS = 200  # of Weiszfeld's iteration, at most


def interpolate(
    a: Tensor, b: Tensor, t: float | Sequence[float] | Tensor, path: Path = "spherical", scale: float = 1.0
) -> Tensor:
    """The points at `t` on the path from `a` to `b`, for each item of the batch on its own.

    - "linear": (1 - t) a + t b. Loses norm: half way between two noises there is 0.7 times as much of it.
    - "spherical": the direction turns evenly (Shoemake 1985) and the norm changes evenly, so equal norms are kept.
    - "norm-aware": NAO's shortest path. As `cost` depends on the norm alone, that is how light goes through air whose
      density depends on the height: it stays in the plane of `a` and `b` and obeys Bouguer's law, r cost(r) sin(angle
      to the radius) = constant, which leaves the constant and the depth of the turning point to be found. Solved for
      400 layers on either side of that point. In as many dimensions as a latent has, the path is steep up to the
      `shell` of likely norms, a great circle there, and steep again. `t` is the share of its Euclidean length.
      Simplified: it is not let turn toward the centre, which could pay only for norms below a quarter of the shell's.

    Parallel and zero states have a straight path. Opposite ones have no plane, so they get one from a fixed seed.

    Arguments:
        a, b: (B, ...), of one shape.
        t: 0 is `a` and 1 is `b`, to the bit; one number, or F of them.
        path: one of PATHS.
        scale: root mean square of the numbers of pure noise in this state space; norm-aware paths read it.

    Returns:
        (B, ...) for one number, (F, B, ...) for several; in the dtype of `a`.

    Raises:
        InversionError: shapes that differ, values that are not finite, `t` outside [0, 1], or an unknown path.
    """
    if a.shape != b.shape:
        raise InversionError(f"A path leads between states of one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise InversionError("A path leads between finite states, got NaN or infinity. Check the inversions.")
    given = torch.as_tensor(t, dtype=torch.float64)
    shares = given.reshape(-1).tolist()
    if path not in PATHS or not all(0 <= share <= 1 for share in shares):
        raise InversionError(f"A path is one of {', '.join(PATHS)} with t from 0 to 1, got {path!r} and t {t}.")
    frames = _straight(a, b, shares) if path == "linear" else _turning(a, b, shares, path, scale)
    for frame, share in zip(frames, shares, strict=True):
        if share in (0, 1):
            frame.copy_(b if share else a)
    return frames if given.ndim else frames[0]


def _straight(a: Tensor, b: Tensor, shares: list[float]) -> Tensor:
    return torch.stack([torch.lerp(a, b.to(a), share) for share in shares])


def _turning(a: Tensor, b: Tensor, shares: list[float], path: Path, scale: float) -> Tensor:
    """A norm and an angle in the plane of `a` and `b` for each share: (F, B, ...)."""
    frames = a.new_empty(len(shares), *a.shape)
    t = torch.tensor(shares, dtype=torch.float64)
    for i, (near, far) in enumerate(zip(double(a.flatten(1)), double(b.flatten(1)), strict=True)):
        first, across, angle = _plane(near, far)
        start, end = float(near.norm()) / scale, float(far.norm()) / scale
        if path == "norm-aware":
            radius, turned = _along(*_ray(start, end, angle, len(near)), t)
        else:
            radius, turned = start + (end - start) * t, angle * t
        for frame, r, phi in zip(frames[:, i], (scale * radius).tolist(), turned.tolist(), strict=True):
            frame.copy_((r * math.cos(phi) * first + r * math.sin(phi) * across).reshape(frame.shape))
    return frames


def _plane(near: Tensor, far: Tensor) -> tuple[Tensor, Tensor, float]:
    """Unit vectors along `near` and across it toward `far`, and the angle between the two."""
    first = _unit(near if near.any() else far)
    across = far - (far @ first) * first
    angle = math.atan2(float(across.norm()), float(far @ first) + 0.0)  # a zero state may give -0, which is behind
    if across.norm() <= PARALLEL * far.norm():
        drawn = torch.randn(len(near), generator=torch.Generator().manual_seed(0)).to(near)
        across = drawn - (drawn @ first) * first
    return first, _unit(across), angle


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def cost(radius: Tensor, d: int) -> Tensor:
    """-log chi_d(r): what a unit of length costs where the norm is `radius`. Above 0 everywhere."""
    constant = (d / 2 - 1) * math.log(2) + math.lgamma(d / 2)
    return constant - (d - 1) * radius.log() + radius.square() / 2


def shell(d: int) -> float:
    """The norm at which a turn costs least, that of the least r cost(r); just below the likeliest, sqrt(d - 1).

    Raises:
        InversionError: fewer than 3 dimensions, where there is no such norm.
    """
    if d < 3:
        raise InversionError(f"Norms tell noise from other states of 3 numbers or more, got states of {d}.")
    r = torch.tensor(math.sqrt(d - 1), dtype=torch.float64)
    for _ in range(50):  # Newton's method for (r cost)' = 0, which is convex from there down to the root
        r = r - (cost(r, d) + r.square() - (d - 1)) / (3 * r - (d - 1) / r)
    return float(r)


def _ray(start: float, end: float, angle: float, d: int) -> tuple[Tensor, Tensor]:
    """The shortest path between two norms at an angle: norm, and angle turned so far, where its layers meet."""
    start, end, bottom = max(start, NOWHERE), max(end, NOWHERE), shell(d)
    depth = torch.linspace(1, 0, LAYERS + 1, dtype=torch.float64) ** 3  # thin layers where the path turns

    def down_to(turn: float) -> Tensor:
        return torch.cat([turn + (start - turn) * depth, turn + (end - turn) * depth.flip(0)[1:]])

    def swept(radius: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The angle turned in each layer, for a share of the largest constant; and r cost(r) there."""
        middle = (radius[1:] + radius[:-1]) / 2
        optical = middle * cost(middle, d)
        constant = share * optical.min()
        return constant * radius.diff().abs() / (middle * (optical.square() - constant.square()).sqrt()), optical

    def turns(radius: Tensor, share: float) -> bool:
        return float(swept(radius, share)[0].sum()) >= angle

    nearest = min(max(bottom, min(start, end)), max(start, end))  # to the shell, on the direct way
    radius = down_to(nearest)
    if not turns(radius, GRAZING):
        dive = bottom - nearest
        radius = down_to(nearest + dive * _least(lambda share: turns(down_to(nearest + dive * share), GRAZING)))
    turned, optical = swept(radius, GRAZING * _least(lambda share: turns(radius, GRAZING * share)))
    turned[optical.argmin()] += angle - turned.sum()  # the rest is turned where that costs least
    return radius, torch.cat([turned.new_zeros(1), turned.cumsum(0)])


def _least(enough: Callable[[float], bool]) -> float:
    """The least share from 0 to 1 that is enough, by bisection; 1 if none is."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _along(radius: Tensor, turned: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Norm and angle at shares `t` of the Euclidean length of a path that is given where its layers meet."""
    arc = (radius[1:] + radius[:-1]) / 2 * turned.diff()
    reached = torch.cat([arc.new_zeros(1), torch.hypot(arc, radius.diff()).cumsum(0)])
    wanted = t * reached[-1]
    i = torch.searchsorted(reached, wanted).clamp(1, len(reached) - 1)
    part = (wanted - reached[i - 1]) / (reached[i] - reached[i - 1]).clamp(min=torch.finfo(reached.dtype).tiny)
    return torch.lerp(radius[i - 1], radius[i], part), torch.lerp(turned[i - 1], turned[i], part)


def between(a: Inversion, b: Inversion, t: Sequence[float], path: Path = "spherical") -> Inversion:
    """A batch of frames between two inversions, to come down on with `sample(..., source=...)`. No model call.

    The frames' noise is on the `path`. What the record adds to it fades from that of `a` to that of `b`, so t 0 and 1
    are as exact as `a` and `b` are. No picture was inverted in between: there the source's estimates of the clean
    latent, which edits compare with, are those of `a` and `b` faded into each other, and its states what the sampler
    makes of these from the frame's noise.

    Arguments:
        a, b: inversions of one picture each, of one size, on one grid.
        t: F numbers from 0 to 1.
        path: see `interpolate`; what ancestral grids add is always interpolated spherically.

    Returns:
        An inversion of a batch of F. Its residuals and calls are the larger of the two.

    Raises:
        InversionError: the grids or sizes differ, or there are several pictures.
    """
    if a.grid != b.grid:
        came = " and ".join(
            f"{g.steps}{' ancestral' if g.ancestral else ''} steps of kind {g.kind!r} from sigma {g.levels[0].sigma:g} "
            f"by {g.levels[1].sigma:g}"
            for g in (a.grid, b.grid)
        )
        raise InversionError(
            f"The two pictures were inverted on other noise levels: {came}. Invert both with the same steps, "
            "scheduler, denoise and sampler, or with the same SIGMAS."
        )
    if a.latent.shape != b.latent.shape or len(a.latent) != 1:
        raise InversionError(
            f"Frames lead from one picture to another of its size, got latents of shape {tuple(a.latent.shape)} and "
            f"{tuple(b.latent.shape)}. Resize the pictures to one size and invert each by itself."
        )
    weight = a.latent.new_tensor(list(t)).reshape(-1, *[1] * (a.latent.ndim - 1))
    latent = interpolate(a.latent, b.latent, t, path, noise_scale(a.grid.levels[0]))[:, 0]
    trajectory = torch.lerp(a.trajectory, b.trajectory, weight)
    noise = added = None
    if a.noise is not None and b.noise is not None:
        noise = interpolate(a.noise, b.noise, t)[:, :, 0].transpose(0, 1)
        added = noise - torch.lerp(a.noise, b.noise, weight)
    # What the noise is apart from `a` and `b` faded: with their estimates, the sampler takes it down as if toward 0.
    points, slopes = torch.lerp(a.points, b.points, weight), torch.lerp(a.slopes, b.slopes, weight)
    apart, trajectory[-1] = latent - trajectory[-1], latent
    for k, (upper, lower) in enumerate(pairwise(a.grid.levels)):
        slope = a.grid.slope(apart, torch.zeros_like(apart), upper)
        points[-1 - k] += apart
        slopes[-1 - k] += slope
        apart = a.grid.descend(apart, upper, lower, slope, None if added is None else added[k])
        trajectory[-2 - k] += apart
    return Inversion(
        a.grid,
        trajectory,
        points,
        slopes,
        torch.maximum(a.residuals, b.residuals).repeat(1, len(latent)),
        tuple(map(max, a.calls, b.calls)),
        method=a.method if a.method == b.method else f"{a.method} and {b.method}",
        tolerance=max(a.tolerance, b.tolerance),
        notes=(f"{len(latent)} frames between two pictures, on a {path} path.",),
        noise=noise,
    )


def centroid(xs: Tensor, scale: float = 1.0) -> Tensor:
    """NAO's centroid of several states: the point with the least sum of norm-aware lengths to them.

    Where every path to it reaches the `shell`, as in the dimensions of a latent and unless states are all but parallel,
    a length is the state's own way to the shell plus the angle times r cost(r) there. So the centroid is on the shell,
    at the geometric median of the directions, which has the least sum of angles: Weiszfeld's iteration on the sphere
    (Fletcher et al. 2009, The geometric median on Riemannian manifolds with application to robust atlas estimation).
    Of two states it is the middle; all points between them are as good.

    Arguments:
        xs: (K, ...), one state or more.
        scale: see `interpolate`.

    Returns:
        (1, ...), in the dtype of `xs`.

    Raises:
        InversionError: a state is zero or not finite, or the directions cancel out.
    """
    directions = _unit(double(xs.flatten(1)))
    middle = directions.mean(0)
    if not xs.isfinite().all() or not xs.flatten(1).any(1).all() or middle.norm() < PARALLEL:
        raise InversionError(
            f"These {len(xs)} states have no middle: one is empty or not finite, or they cancel each other out. Check "
            "the inversions, or leave one out."
        )
    middle = _unit(middle)
    for _ in range(ROUNDS):
        along = directions @ middle
        across = directions - along[:, None] * middle
        angles = torch.atan2(across.norm(dim=1), along).clamp(min=PARALLEL)
        step = _unit(across).sum(0) / angles.reciprocal().sum()
        size = float(step.norm())
        if size < PARALLEL**2:
            break
        middle = _unit(math.cos(size) * middle + math.sin(size) / size * step)
    return (scale * shell(directions.shape[1]) * middle).reshape(1, *xs.shape[1:]).to(xs)


def seeds(
    examples: Tensor,
    count: int,
    generator: torch.Generator,
    spread: float = 1.0,
    fresh: float = 0.0,
    scale: float = 1.0,
) -> Tensor:
    """New noise near that of examples, on the `shell`, where norm-aware paths are great circles.

    Each goes from the centroid toward a random point between two of the examples, as far as `spread` says, and from
    there toward new Gaussian noise, as far as `fresh` says. NAO draws rare concepts from the centroid and from points
    between it and the examples; `fresh` is an addition, for variety that a few examples do not have.

    Arguments:
        examples: (K, ...), inverted latents of one kind of picture.
        count: how many.
        generator: on the CPU.
        spread: 0 is the centroid, 1 a point between two examples.
        fresh: 1 is new noise, which owes the examples nothing.
        scale: see `interpolate`.

    Returns:
        (count, ...), in the dtype of `examples`.
    """
    middle, size = centroid(examples, scale), scale * shell(examples[0].numel())
    made = []
    for _ in range(count):
        pair = torch.randperm(len(examples), generator=generator)[[0, -1]].tolist()  # of one example: itself twice
        share = float(torch.rand((), generator=generator))
        drawn = torch.randn(middle.shape, generator=generator).to(examples)
        first, second, drawn = (
            size * _unit(x.flatten(1)).reshape(x.shape) for x in (examples[pair[:1]], examples[pair[1:]], drawn)
        )
        point = interpolate(middle, interpolate(first, second, share), spread)
        made.append(interpolate(point, drawn, fresh))
    return torch.cat(made)
