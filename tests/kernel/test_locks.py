"""Waits for a mutex in made-up memory: lists with a head in the lock, and rings of which it knows the first waiter."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.kernel import fakes
from tests.kernel.test_columns import Flat
from tests.kernel.test_objects import DATA

from kdump.kernel import btf
from kdump.kernel.locks import Locks, Stacks, Wait
from kdump.kernel.objects import Objects

SIZE = 0x4000
MUTEX, TASK, HOLDER, STACK = DATA + 0x100, DATA + 0x200, DATA + 0x300, DATA + SIZE
SP, WAITER, SECOND = STACK + 0x3E00, STACK + 0x3E40, STACK + 0x3F40


def types(*, ring: bool) -> btf.Btf:
    out = fakes.Btf()
    long = out.integer("unsigned long", 8)
    node = out.struct("list_head", 16, [("next", long, 0, 0), ("prev", long, 64, 0)])
    out.struct("mutex_waiter", 24, [("list", node, 0, 0), ("task", long, 128, 0)])
    lock = ("first_waiter", long, 64, 0) if ring else ("wait_list", node, 64, 0)
    out.struct("mutex", 24, [("owner", long, 0, 0), lock])
    thread = out.struct("thread_struct", 8, [("sp", long, 0, 0)])
    out.struct("task_struct", 16, [("stack", long, 0, 0), ("thread", thread, 64, 0)])
    return btf.Btf(out.build())


def awaited(*, ring: bool, intact: bool = True, pointed: bool = True) -> Wait | None:
    memory = bytearray(2 * SIZE)

    def put(address: int, *words: int) -> None:
        struct.pack_into(f"<{len(words)}Q", memory, address - DATA, *words)

    head = [] if ring else [MUTEX + 8]
    nodes = [*head, WAITER, SECOND]
    for place, node in enumerate(nodes):
        put(node, nodes[(place + 1) % len(nodes)], nodes[place - 1])
    put(MUTEX, HOLDER | 1)
    if ring:
        put(MUTEX + 8, WAITER)
    put(WAITER + 16, TASK)
    put(SECOND + 16, HOLDER + 0x100)
    put(TASK, STACK, SP)
    put(SP + 0x10, MUTEX if pointed else 0, TASK)  # as calls leave them; the second is no waiter's
    if not intact:
        put(SECOND + 8, 0)
    flat = Flat(*(bytes(memory[start : start + 4096]) for start in range(0, len(memory), 4096)))
    whole = fakes.Pieces({DATA: bytes(memory)})
    symbols = {"__start_init_stack": DATA, "__end_init_stack": DATA + SIZE}
    virtual = SimpleNamespace(view=whole.view, frames=flat.frames)
    objects = Objects(
        cast("Any", SimpleNamespace(types=types(ring=ring), symbols=symbols, virtual=virtual, memory=flat))
    )
    task = SimpleNamespace(struct=objects.struct("task_struct", TASK))
    return Locks(objects, Stacks(objects, [STACK])).awaited(cast("Any", task), ["schedule", "__mutex_lock"])


@pytest.mark.parametrize("ring", [False, True])
def test_the_mutex_and_its_holder(ring: bool) -> None:
    assert awaited(ring=ring) == Wait("mutex", MUTEX, HOLDER)


@pytest.mark.parametrize("ring", [False, True])
def test_a_broken_list_proves_nothing(ring: bool) -> None:
    assert awaited(ring=ring, intact=False) is None


def test_a_ring_whose_lock_nobody_points_to_is_not_told() -> None:
    assert awaited(ring=True, pointed=False) is None
