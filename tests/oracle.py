"""The brute-force oracle: walks every synapse of every event, one at a time. Slow and obvious on purpose."""

import copy

import torch
from torch import nn

from spikesparse.nn import SpikingAvgPool2d


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def window_positions(size, kernel, stride, padding, dilation):
    """For each window along one axis: the input position that each of its taps reads; some lie in the padding."""
    windows, start = [], -padding
    while start + dilation * (kernel - 1) < size + padding:
        windows.append([start + tap * dilation for tap in range(kernel)])
        start += stride
    return windows


def synapses_of(weights, shape, channel, y, x):
    """The weight of every synapse that an event at this place of an input of this shape drives."""
    if isinstance(weights, nn.Linear):
        feature = (channel * shape[1] + y) * shape[2] + x
        return [weights.weight[out, feature].item() for out in range(weights.out_features)]
    found = []
    per_group_in, per_group_out = weights.in_channels // weights.groups, weights.out_channels // weights.groups
    group = channel // per_group_in
    rows, columns = (
        window_positions(size, k, s, p, d)
        for size, k, s, p, d in zip(
            shape[1:], weights.kernel_size, weights.stride, weights.padding, weights.dilation, strict=True
        )
    )
    for out in range(group * per_group_out, (group + 1) * per_group_out):
        for row in rows:
            for column in columns:
                for ky, read_y in enumerate(row):
                    for kx, read_x in enumerate(column):
                        if (read_y, read_x) == (y, x):
                            found.append(weights.weight[out, channel % per_group_in, ky, kx].item())
    return found


def synapses_through_pool(pool, weights, shape, channel, y, x):
    """The same for an event that enters a plain average pool first: through every window that it falls in."""
    kernel, stride, padding = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
    rows, columns = (
        window_positions(size, k, s, p, 1) for size, k, s, p in zip(shape[1:], kernel, stride, padding, strict=True)
    )
    pooled = (shape[0], len(rows), len(columns))
    found = []
    for wy, row in enumerate(rows):
        for wx, column in enumerate(columns):
            if y in row and x in column:
                found += synapses_of(weights, pooled, channel, wy, wx)
    return found


class Watcher:
    """What goes through a network's parts in one forward pass, seen by hooks from outside."""

    def __init__(self, net, x, **settings):
        self.seen, hooks = {}, []
        for name, layer in net.layers.items():
            hooks.append(layer.weights.register_forward_pre_hook(self._keep(name, "into weights")))
            if layer.neuron is not None:
                hooks.append(layer.neuron.register_forward_hook(self._keep(name, "spikes")))
            if layer.dropout is not None:
                hooks.append(layer.dropout.register_forward_hook(self._keep(name, "dropped")))
            if layer.pool is not None:
                hooks.append(layer.pool.register_forward_hook(self._keep(name, "pooled")))
        try:
            self.output = net(x, **settings)
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, name, what):
        def hook(module, args, output=None):
            self.seen[name, what] = (args[0] if output is None else output).detach().clone()

        return hook

    def __getitem__(self, key):
        return self.seen.get(key)


class Oracle:
    """Every count of one forward pass, as Python integers, by walking. Per-image counts are lists."""

    def __init__(self, net, x, timesteps, **settings):
        self.watched = Watcher(net, x, **settings)
        self.x, self.timesteps, self.batch = x, timesteps, x.shape[-4]
        self.input_spikes, self.macs, self.nonzero_macs = ([0] * self.batch for _ in range(3))
        self.synapses, self.nonzero_synapses, self.connections = {}, {}, {}
        self.synops, self.nonzero_synops = {}, {}
        self.spikes, self.neuron_spikes, self.pooling_spikes = {}, {}, {}
        before = None
        for name, layer in net.layers.items():
            self._walk_weights(name, folded(layer), before, net.layers[before].pool if before else None)
            if layer.neuron is not None:
                self._count_neurons(name, isinstance(layer.pool, SpikingAvgPool2d))
            before = name

    def _walk_weights(self, name, weights, before, pool):
        pool = pool if isinstance(pool, nn.AvgPool2d) else None
        events = self._events(name, before, pool)  # (steps, B, C, H, W)
        shape = tuple(events.shape[2:])
        reached = {
            place: synapses_of(weights, shape, *place)
            if pool is None
            else synapses_through_pool(pool, weights, shape, *place)
            for place in places(shape)
        }
        own_shape = shape if pool is None else tuple(pool(torch.zeros(1, *shape)).shape[1:])
        self.synapses[name] = sum(len(found) for found in reached.values())
        self.nonzero_synapses[name] = sum(count_nonzero(found) for found in reached.values())
        self.connections[name] = sum(len(synapses_of(weights, own_shape, *place)) for place in places(own_shape))
        self.synops[name], self.nonzero_synops[name] = [0] * self.batch, [0] * self.batch
        for image in range(self.batch):
            values = events[:, image]
            if before is None and (self.x.dim() == 4 or any(v not in (-1, 0, 1) for v in values.flatten().tolist())):
                self.macs[image] = len(values) * self.synapses[name]
                self.nonzero_macs[image] = len(values) * self.nonzero_synapses[name]
                continue
            for _, *place in values.nonzero().tolist():
                self.synops[name][image] += len(reached[tuple(place)])
                self.nonzero_synops[name][image] += count_nonzero(reached[tuple(place)])
                self.input_spikes[image] += before is None

    def _events(self, name, before, pool):
        if before is None:
            return self.x if self.x.dim() == 5 else self.x[None]
        if pool is not None:
            dropped = self.watched[before, "dropped"]
            return self.watched[before, "spikes"] if dropped is None else dropped
        entering = self.watched[name, "into weights"].unflatten(0, (self.timesteps, self.batch))
        return entering if entering.dim() == 5 else entering[..., None, None]

    def _count_neurons(self, name, spiking_pool):
        spikes = self.watched[name, "spikes"]
        self.spikes[name] = [count_nonzero(spikes[:, image].flatten().tolist()) for image in range(self.batch)]
        trains = spikes.flatten(2).permute(2, 0, 1).flatten(1).tolist()
        self.neuron_spikes[name] = [count_nonzero(train) for train in trains]
        if spiking_pool:
            pooled = self.watched[name, "pooled"]
            counts = [count_nonzero(pooled[:, image].flatten().tolist()) for image in range(self.batch)]
            self.pooling_spikes[f"pool{1 + len(self.pooling_spikes)}"] = counts


def folded(layer):
    """The layer's weights with its BatchNorm's scale multiplied in."""
    weights = copy.deepcopy(layer.weights)
    if layer.norm is not None:
        scale = layer.norm.weight / (layer.norm.running_var + layer.norm.eps).sqrt()
        with torch.no_grad():
            weights.weight.mul_(scale.view(-1, *[1] * (weights.weight.dim() - 1)))
    return weights


def count_nonzero(values):
    return sum(1 for value in values if value != 0)


def places(shape):
    return [(c, y, x) for c in range(shape[0]) for y in range(shape[1]) for x in range(shape[2])]
