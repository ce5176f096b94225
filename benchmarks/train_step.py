"""Time and memory of one training step of the same spiking VGG through spikesparse, its peers and the limit.

    make benchmark ARGS="--timesteps 1 2 4 8 --csv results/train_step.csv"

A step is forward, cross-entropy, backward and SGD with momentum; the network is Lee et al. 2020's VGG9 with BatchNorm
(hard detached reset, decay 0.5, threshold 1, atan surrogate), under direct encoding. The limit is the same folded
network with ReLU in place of the neurons. Every contestant runs in a process of its own, is first compared with a plain
reference (logits, gradients, spikes), and then takes turns with the others; ratios are taken within a round.
"""

from train_step.command import main

if __name__ == "__main__":
    main(__doc__)
