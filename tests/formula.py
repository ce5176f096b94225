"""A spiking layer in float64, differentiated by autograd, that fires where it is told to; and the surrogates again."""

import math

import torch
from torch.nn import functional as F

# name -> ds/dh at distance d, slope k, threshold th; each from the equation of the paper that the docstring cites.
SURROGATE_FORMULAS = {
    "atan": lambda d, k, th: k / (2 * (1 + (math.pi * k * d / 2) ** 2)),
    "sigmoid": lambda d, k, th: k * torch.exp(-k * d) / (1 + torch.exp(-k * d)) ** 2,
    "fast_sigmoid": lambda d, k, th: (1 + k * d.abs()) ** -2,
    "triangle": lambda d, k, th: torch.where(d.abs() < 1 / k, 1 - k * d.abs(), 0),
    "rectangle": lambda d, k, th: torch.where(d.abs() < 1 / (2 * k), k, 0.0),
    "lee2020": lambda d, k, th: torch.where(d >= 0, k / th, 0.0),
}
DEFAULT_SLOPES = {"atan": 2, "sigmoid": 4, "fast_sigmoid": 10, "triangle": 1, "rectangle": 1, "lee2020": 1}


class Fire(torch.autograd.Function):
    """The given spikes, with a surrogate for their derivative by the distance from the threshold."""

    @staticmethod
    def forward(ctx, distance, spikes, sigma):
        ctx.save_for_backward(sigma)
        return spikes.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None


class ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


def neurons(currents, decay, threshold, initial, name, slope, soft, detach, given=None):
    """Spikes of a list of currents, one a step; those ``given``, whatever the membrane, if there are any."""
    v, spikes = torch.zeros_like(currents[0]) + initial, []
    fixed_decay, fixed_threshold = (p.item() if isinstance(p, torch.Tensor) else p for p in (decay, threshold))
    slope = DEFAULT_SLOPES[name] if slope is None else slope
    for t, x in enumerate(currents):
        h = decay * v + x
        distance = h - threshold
        fired = (distance >= 0).to(h.dtype).detach() if given is None else given[t]
        sigma = SURROGATE_FORMULAS[name](distance.detach(), slope, fixed_threshold)
        if name == "lee2020":
            sigma = fired * slope / fixed_threshold
        spikes.append(Fire.apply(distance, fired, sigma))
        s = spikes[-1].detach() if detach else spikes[-1]
        v = h - threshold * s if soft else h * (1 - s)
    out = torch.stack(spikes)
    if name == "lee2020":  # Lee et al. 2020: [LF > 0.001] + ln(leak) * LF / spike count
        trace = 0.0
        for s in spikes:
            trace = fixed_decay * trace + s.detach()
        count = out.detach().sum(0)
        leak = torch.where(count > 0, math.log(fixed_decay) * trace / count, 0.0)
        out = ScaleGradient.apply(out, (trace > 1e-3).double() + leak)
    return out


def layer(y, weight, bias, decay, threshold, initial, name, soft, detach, timesteps, pool, batch, eps, given):
    """BatchNorm (or scale and shift), neurons and pool on (S, B, H, W, C): what leaves, and both counts."""
    if batch:
        axes = (0, 1, 2, 3)
        y = (y - y.mean(axes)) / (y.var(axes, correction=0) + eps).sqrt()
    x = y if weight is None else y * weight + bias
    currents = [x[0]] * timesteps if len(x) < timesteps else list(x)
    spikes = neurons(currents, decay, threshold, initial, name, None, soft, detach, given)
    fired, events = spikes.sum((0, -1)), None
    if pool:
        height, width = fired.shape[1:]
        fired = F.pad(fired, (0, width % 2, 0, height % 2)).unfold(1, 2, 2).unfold(2, 2, 2).sum((3, 4))
        pooled = F.max_pool2d(spikes.flatten(0, 1).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        spikes = pooled.unflatten(0, (timesteps, -1))
        events = spikes.sum((0, -1))
    return spikes, fired, events
