"""One package per task, with all that only it uses. `ftkeras.runs.task.task_of` finds a task."""
