"""Meta-World: videos of a simulated robot arm that solves 50 manipulation tasks, rendered here, with labels of three kinds.

    python -m cvmae.data.prepare --dataset=metaworld --out=DIR

simulates the tasks' scripted policies (arXiv 1910.10897; the extra `metaworld`) and writes into DIR:

    clips/SPLIT/TASK/NUMBER.mp4                  H.264, 16 frames of 96x96
    direction/SPLIT/TASK-DIRECTION/NUMBER.mp4    the middle of the same episodes, forwards and backwards: equal frames, two orders
    task.csv object.csv direction.csv            manifests, each with the labels of its name

Which object stands on the table shows in every frame; what is done with it, only in several. The labels: `task`, 50 classes;
`object`, 36, with the tasks that do opposite things to one object as one class; and `direction`, 100, a task played forwards
or backwards, which no model that ignores the order of frames tells apart better than by chance.

Splits: train, val and test differ in the episodes, in camera, light and colors, drawn from the same ranges; test_unseen has the
episodes of test from the other side of the table, with other colors and another table.

A run may be interrupted at any moment; the same command continues it. The files depend on the options, --seed among them, on the
installed versions and on what renders, not on the number of processes.
"""

from cvmae.data.metaworld.run import Options, prepare

__all__ = ["Options", "prepare"]
