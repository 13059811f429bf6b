"""The tasks by name."""

from components.evaluation.harness.calling import BFCL_SIMPLE
from components.evaluation.harness.instructions import IFEVAL
from components.evaluation.harness.knowledge import MMLU
from components.evaluation.harness.lveval import LVEVAL
from components.evaluation.harness.passkey import PASSKEY
from components.evaluation.harness.programs import HUMAN_EVAL
from components.evaluation.harness.prose import PYTHON_REFERENCE
from components.evaluation.harness.reasoning import REASONING
from components.evaluation.harness.ruler.tasks import RULER
from components.evaluation.harness.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (MMLU, HUMAN_EVAL, IFEVAL, BFCL_SIMPLE, REASONING, PYTHON_REFERENCE, PASSKEY, *RULER, *LVEVAL)
}
GROUPS = {"ruler": tuple(task.name for task in RULER if not task.name.startswith("ruler_qa"))}
"""Names that stand for several tasks: of RULER, those that need no data of the user's."""
