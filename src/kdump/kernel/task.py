"""One task as reports name it, and the letter of its state.

Source: include/linux/sched.h (TASK_*, EXIT_*), fs/proc/array.c (task_state_array).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kdump.kernel.objects import Struct

_LETTERS = ((0x01, "S"), (0x02, "D"), (0x04, "T"), (0x08, "t"), (0x40, "P"), (0x1000, "D"))
_NOLOAD = 0x400  # TASK_NOLOAD: with TASK_UNINTERRUPTIBLE it is TASK_IDLE
_DEAD, _ZOMBIE = 0x10, 0x20  # exit_state


class Task(NamedTuple):
    """A thread. `state` is the letter of ps(1); `cpu` where it runs or last ran; `running` whether it was on a CPU."""

    struct: Struct
    pid: int
    tgid: int
    command: str
    state: str
    cpu: int
    running: bool
    kernel_thread: bool

    @property
    def blocked(self) -> bool:
        """Whether it sleeps uninterruptibly and counts towards the load (state D)."""
        return self.state == "D"


def letter(left: int, bits: int) -> str:
    """The state's letter of an exit state and a state."""
    if left:
        return "X" if left & _DEAD else "Z" if left & _ZOMBIE else "?"
    if bits & 0x02 and bits & _NOLOAD:
        return "I"
    return next((letter for bit, letter in _LETTERS if bits & bit), "R")
