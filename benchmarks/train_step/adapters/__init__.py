"""One file for each library: ``build(setting, **options)`` returns its :class:`~train_step.contender.Contender`.

Stateless layers run once on all time steps, neurons in the library's own way over time: its multi-step module where it
has one, else a loop.
"""
