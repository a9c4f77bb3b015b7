"""Who does the tasks of a build: processes of this machine, a Ray cluster, or Slurm. What they make is the same.

    Local(workers)                            a pool of processes, and in this process where one worker is enough
    Ray(workers, address=, memory=)           datatrove's RayPipelineExecutor
    Slurm(workers, partition, time, memory=)  datatrove's SlurmPipelineExecutor

A task's result is a file, and a task whose file is there is done, whoever did it: what one engine began, another may finish.
"""

from openko.corpus.engines.local import Local
from openko.corpus.engines.ray import Ray
from openko.corpus.engines.slurm import Slurm

THIS_PROCESS = Local()

__all__ = ["THIS_PROCESS", "Local", "Ray", "Slurm"]
