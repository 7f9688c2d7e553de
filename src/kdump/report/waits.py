"""The wait of a sleeping task, in words, and who could end the wait: one link of the chain behind a hang.

`kdump.kernel.locks` finds waits for locks. All other waits leave a struct on the waiting task's stack, which points
to the task or to the thing it waits for. A link counts only if the object that it leads to points back.

Sources: kernel/sched/completion.c, swait.c; mm/filemap.c (struct wait_page_queue); include/linux/wait_bit.h;
include/linux/buffer_head.h; kernel/workqueue.c (struct wq_barrier, wq_flusher: `worker.scheduled`, `pool.worklist`);
kernel/rcu/tree.h (leaves of the tree have a bit for each CPU that has yet to report); fs/super.c (freezing takes the
per-CPU semaphores `s_writers.rw_sem`); include/linux/jbd2.h; fs/fs-writeback.c (struct wb_completion, `bdi.wb_waitq`);
net/sunrpc/sched.c (`rpc_task.tk_runstate`), include/linux/sunrpc/clnt.h, include/linux/nfs_fs_sb.h.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from kdump.kernel.locks import KERNEL, Locks, Stacks
from kdump.kernel.locks import Wait as LockWait
from kdump.kernel.mounts import path_of_mount
from kdump.kernel.objects import Objects, Pointer, Struct
from kdump.kernel.task import Task
from kdump.report import storage
from kdump.report.context import Context
from kdump.report.damage import DAMAGE
from kdump.report.logtext import clean
from kdump.report.mounted import mounts
from kdump.report.pointers import Pointers

_DEEP = 14  # frames from the innermost in which the wait must show
_MAX_NODES, _MAX_POOLS, _MAX_QUEUES = 1 << 16, 1 << 16, 1 << 16
_LEVELS = 5  # s_writers.rw_sem has fewer
_NAME = 64


class Wait(NamedTuple):
    """A task waits for `what`; `owner` is the task_struct that could end it, or 0, `how` what that does ("held by").

    `kind` is the lock's type, or "completion", "page", "buffer", "request", "work", "workqueue", "grace period",
    "journal", "write-back", "server"; `address` tells equal waits apart. `request` is the I/O that it comes down to.
    `readers`: others may hold the lock too.
    """

    kind: str
    address: int
    what: str
    owner: int = 0
    how: str = "held by"
    readers: bool = False
    request: storage.Request | None = None
    frozen: str = ""  # where the file system is mounted that does not let anybody write
    block: int = 0  # super_block of the file system that makes the task wait

    @property
    def name(self) -> str:
        """The awaited object, for a table that also has the kind."""
        return self.what.removeprefix("the ").removeprefix(f"{_WORDS.get(self.kind, '-')} ")

    @property
    def key(self) -> tuple[str, int]:
        """Tasks with the same one wait for the same thing."""
        return self.kind, self.address


class Waits:
    """Finds what tasks wait for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._objects: Objects = context.objects
        self._stacks = Stacks(self._objects, context.tasks.all.columns["stack"].tolist())
        self._locks = Locks(self._objects, self._stacks)
        self._finders = (
            (("folio_wait_bit", "__folio_lock", "wait_on_page_bit", "__lock_page"), self._page),
            (("rpc_wait_bit_killable", "__rpc_wait_for_completion_task", "__rpc_execute"), self._rpc),
            (("wb_wait_for_completion", "__writeback_inodes_sb_nr", "sync_inodes_sb"), self._writeback),
            (("__wait_on_buffer", "out_of_line_wait_on_bit", "__wait_on_bit"), self._bit),
            (("__flush_work", "flush_work", "__cancel_work_timer", "__cancel_work_sync"), self._work),
            (("__flush_workqueue", "flush_workqueue", "drain_workqueue"), self._workqueue),
            (("__wait_rcu_gp", "wait_rcu_gp", "synchronize_rcu"), self._grace_period),
            (("jbd2_log_wait_", "wait_transaction_", "add_transaction_", "start_this_handle"), self._journal),
            (("submit_bio_wait", "blkdev_issue_flush", "blk_execute_rq"), self._io),
            (("wait_for_completion", "__wait_for_common", "wait_for_common"), self._completion),
        )  # fmt: skip

    def awaited(self, task: Task, functions: Sequence[str]) -> Wait | None:
        """The wait of a task; `functions` are those on its stack. None if it is not known."""
        try:
            lock = self._locks.awaited(task, functions)
            if lock:
                return self._lock(lock)
            inner = functions[:_DEEP]
            for names, find in self._finders:
                if any(function.startswith(names) for function in inner) and (found := find(task)):
                    return found
        except DAMAGE as error:
            self._objects.problem(f"what {clean(task.command)} (pid {task.pid}) waits for: {error}")
        return None

    def fingerprint(self, task: Task) -> bytes:
        """Equal for tasks whose stacks hold the same code addresses at the same depths; empty where it is unknown."""
        _, words = self._stacks.words(task)
        text = self._objects.symbols.get("_stext")
        return np.where(words >= np.uint64(text), words, np.uint64(0)).tobytes() if text else b""

    # Locks

    def _lock(self, lock: LockWait) -> Wait:
        if lock.kind == "percpu_rw_semaphore" and (block := self._frozen(lock.address)):
            where = self._mounted(block)
            what = f"the {self._kind(block)} file system at {where}, which is frozen"
            return Wait(lock.kind, lock.address, what, lock.owner, frozen=where, block=block)
        try:
            name, block = self._part(lock) or (self.name(lock.address), 0)
        except DAMAGE:  # what lies around the lock cannot be read, or is no such thing
            name, block = self.name(lock.address), 0
        what = f"the {_WORDS.get(lock.kind, lock.kind)} {name}"
        return Wait(lock.kind, lock.address, what, lock.owner, readers=lock.readers, block=block)

    def name(self, address: int) -> str:
        """The symbol at an address, else the address and what it is part of."""
        found = self._pointers.at(address)
        if found is None or found.free:
            return f"{address:#x}"
        symbol = self._context.kernel.symbolizer.at(address)
        exact = symbol is not None and symbol.address == address and symbol.name
        return clean(symbol.name) if symbol and exact else f"{address:#x} ({found.words})"

    @cached_property
    def _pointers(self) -> Pointers:
        return Pointers(self._context)

    def _part(self, lock: LockWait) -> tuple[str, int] | None:
        """The object that a lock is part of, in words, and the file system's super block: those that many wait for
        at times."""
        objects, types = self._objects, self._objects.types
        address = lock.address
        if lock.kind == "rt_mutex" and types.struct("rw_semaphore").has("rwbase.rtmutex"):
            inner = types.struct("rw_semaphore").offset("rwbase.rtmutex")
            symbol = self._context.kernel.symbolizer.at(address)
            if symbol is not None and symbol.name and symbol.address == address - inner:
                return clean(symbol.name), 0
            address -= inner
        elif lock.kind != "rw_semaphore":
            return None
        for block in self._blocks:
            if objects.address(block.s_umount) == address:
                here = objects.address(block)
                return f"s_umount of the {self._kind(here)} file system at {self._mounted(here)}", here
        table = self._context.tasks.all
        owners = np.flatnonzero(
            table.columns["mm"].astype(np.uint64) == np.uint64(self._around(address, "mm_struct.mmap_lock"))
        )
        if len(owners):
            task = table.tasks[int(owners[0])]
            return f"mmap_lock of {clean(task.command)} (pid {task.tgid})", 0
        inode = objects.struct("inode", self._around(address, "inode.i_rwsem"))
        if int(inode.i_sb) in {objects.address(block) for block in self._blocks}:
            return f"i_rwsem of {self._file(inode)}", int(inode.i_sb)
        return None

    def _around(self, address: int, member: str) -> int:
        """Address of the struct whose `struct.member` is at an address."""
        kind, _, name = member.partition(".")
        return address - self._objects.types.struct(kind).offset(name) & (1 << 64) - 1

    def _frozen(self, lock: int) -> int:
        """The super block of the frozen file system that has this lock, 0 if none has."""
        for block in self._blocks:
            levels = block.s_writers.rw_sem
            start, step = self._objects.address(levels), self._objects.sizeof("percpu_rw_semaphore")
            if start <= lock < start + step * min(len(levels), _LEVELS):
                return self._objects.address(block) if int(block.s_writers.frozen) else 0
        return 0

    def _kind(self, block: int) -> str:
        """A file system's type."""
        return clean(self._objects.string(self._objects.struct("super_block", block).s_type.name))

    def _on(self, device: int) -> int:
        """The super block of the file system on a block device, 0 if absent."""
        return next((self._objects.address(block) for block in self._blocks if block.s_bdev == device), 0)

    @cached_property
    def _blocks(self) -> list[Struct]:
        objects = self._objects
        return list(objects.list(objects.variable("super_blocks"), "super_block", "s_list"))

    def _mounted(self, block: int) -> str:
        """Where a file system is mounted; its device's name if it is nowhere in the first namespace."""
        for mount in mounts(self._context):
            if int(mount.mnt.mnt_sb) == block:
                return clean(path_of_mount(self._objects, mount))
        return clean(self._objects.string(self._objects.struct("super_block", block).s_id))

    # Pages and buffers

    def _page(self, task: Task) -> Wait | None:
        objects, types = self._objects, self._objects.types
        layout = types.struct("wait_page_queue")
        member = layout.first("folio", "page")
        if member is None:
            return None
        for place in self._stacks.places(task, objects.address(task.struct)):
            queue = place - layout.offset("wait") - types.struct("wait_queue_entry").offset("private")
            page = objects.unsigned(queue + member.offset)
            bit = objects.signed(queue + layout.offset("bit_nr"))
            if page < KERNEL or page & 7 or not self._stacks.ring(self._entry(queue + layout.offset("wait"))):
                continue
            bits = {value: name for name, value in types.enum("pageflags").items()}
            state = {"PG_writeback": "to be written back", "PG_locked": "to be unlocked"}.get(bits.get(bit, ""), "")
            if state:
                where, request, block = self._of_page(page)
                return Wait("page", page, f"{where} {state}", request=request, block=block)
        return None

    def _entry(self, queue_entry: int) -> int:
        return queue_entry + self._objects.types.struct("wait_queue_entry").offset("entry")

    def _of_page(self, page: int) -> tuple[str, storage.Request | None, int]:
        """The owner of a page, the request that is reading or writing it, and the file system's super block."""
        objects = self._objects
        found = objects.struct("page", page)
        mapping, words, block = int(found.mapping), "a page", 0
        if mapping and not mapping & 3:
            host = objects.struct("address_space", mapping).host
            if host:
                words = f"page {self._index(found)} of {self._file(host)}"
                block = self._on(objects.address(self._bdev(host))) if self._is_device(host) else int(host.i_sb)
        end = page + objects.sizeof("page")
        requests = (each for each in self._context.requests if storage.holds_page(objects, each, page, end))
        return words, next(requests, None), block

    def _index(self, page: Struct) -> int:
        return int(page.index if self._objects.has(page, "index") else page.__getattr__("__folio_index"))

    def _is_device(self, inode: Pointer | Struct) -> bool:
        return self._kind(int(inode.i_sb)) == "bdev"

    def _bdev(self, inode: Pointer | Struct) -> Struct:
        device: Struct = self._objects.container(inode, "bdev_inode", "vfs_inode").bdev
        return device

    def _file(self, inode: Pointer | Struct) -> str:
        objects = self._objects
        block = inode.i_sb
        kind = self._kind(int(block))
        if self._is_device(inode):
            return self._device(self._bdev(inode))
        alias = int(inode.i_dentry.first)
        if alias:
            entry = objects.types.struct("dentry")
            member = entry.first("d_u.d_alias", "d_alias")
            if member is not None:
                name = objects.string(objects.struct("dentry", alias - member.offset).d_name.name, _NAME)
                return f"the file {clean(name)} on {clean(objects.string(block.s_id))} ({kind})"
        return f"inode {int(inode.i_ino)} on {clean(objects.string(block.s_id))} ({kind})"

    def _device(self, device: Pointer | Struct) -> str:
        name = storage.name_of(self._objects, device.bd_disk)
        number = int(device.bd_partno) if self._objects.has(device, "bd_partno") else 0
        return f"{name}{'p' if name[-1:].isdigit() else ''}{number}" if number else name

    def _bit(self, task: Task) -> Wait | None:
        """A wait for a bit; that of a buffer, which most are, is for I/O."""
        objects, types = self._objects, self._objects.types
        layout, buffer = types.struct("wait_bit_queue_entry"), types.struct("buffer_head")
        for place in self._stacks.places(task, objects.address(task.struct)):
            entry = place - types.struct("wait_queue_entry").offset("private")
            flags = objects.unsigned(entry - layout.offset("wq_entry") + layout.offset("key.flags"))
            if flags < KERNEL or not self._stacks.ring(self._entry(entry)):
                continue
            head = objects.struct("buffer_head", flags - buffer.offset("b_state"))
            device = head.b_bdev
            if not device or int(device.bd_disk) not in {objects.address(disk) for disk in self._context.disks}:
                continue
            block, size = int(head.b_blocknr), int(head.b_size)
            start = int(device.bd_start_sect) if objects.has(device, "bd_start_sect") else 0
            request = self._at(int(device.bd_disk), start + block * (size // storage.SECTOR))
            what = f"block {block} of {self._device(device)} to be read or written"
            return Wait("buffer", flags, what, request=request, block=self._on(int(device)))
        return None

    def _at(self, disk: int, sector: int) -> storage.Request | None:
        for request in self._context.requests:
            if request.disk == disk and request.sector <= sector < request.sector + request.size // storage.SECTOR:
                return request
        return None

    # Write-back and servers

    def _writeback(self, task: Task) -> Wait | None:
        """The work that writes dirty pages of a file system: its wait queue is that of the device's bdi."""
        objects, types = self._objects, self._objects.types
        layout, private = types.struct("backing_dev_info"), types.struct("wait_queue_entry").offset("private")
        for place in self._stacks.places(task, objects.address(task.struct)):
            heads = [node for node in self._stacks.ring(self._entry(place - private)) if not self._stacks.holds(node)]
            if len(heads) != 1:
                continue
            device = heads[0] - layout.offset("wb_waitq.head")
            found = objects.struct("backing_dev_info", device)
            if int(found.wb.bdi) != device:  # the first of its struct bdi_writeback leads back
                continue
            what = f"dirty pages of {self._of_bdi(found)} to be written"
            work = types.struct("bdi_writeback").offset("dwork.work")
            for worker in self._workers:
                if worker.current_work and "wb_workfn" in self._function(int(worker.current_func)):
                    queue = objects.struct("bdi_writeback", int(worker.current_work) - work)
                    if int(queue.bdi) == device:
                        return Wait("write-back", device, what, int(worker.task), how="which is done by")
            return Wait("write-back", device, what)
        return None

    def _of_bdi(self, device: Struct) -> str:
        """The disk of a struct backing_dev_info, else its own name, which is the device's number."""
        objects = self._objects
        for disk in self._context.disks:
            if objects.has(disk, "bdi") and int(disk.bdi) == objects.address(device):
                return storage.name_of(objects, disk)
        return f"the device {clean(objects.string(device.dev_name))}"

    def _rpc(self, task: Task) -> Wait | None:
        """A call to an NFS server: the bit that is waited for is one of its struct rpc_task."""
        objects = self._objects
        entry = objects.types.struct("wait_bit_queue_entry")
        layout = self._context.types_of("rpc_task").struct("rpc_task")
        own = entry.offset("wq_entry") + objects.types.struct("wait_queue_entry").offset("private")
        for place in self._stacks.places(task, objects.address(task.struct)):
            flags = objects.unsigned(place - own + entry.offset("key.flags"))
            if flags < KERNEL or not self._stacks.ring(self._entry(place - own + entry.offset("wq_entry"))):
                continue
            call = self._context.struct("rpc_task", flags - layout.offset("tk_runstate"))
            client = call.tk_client
            if not client or objects.address(client.cl_tasks) not in self._stacks.ring(objects.address(call.tk_task)):
                continue
            server = clean(objects.string(client.cl_xprt.servername, _NAME))
            procedure = call.tk_msg.rpc_proc
            name = clean(objects.string(procedure.p_name, _NAME)) if procedure and procedure.p_name else "call"
            program = clean(objects.string(client.cl_program.name, _NAME)).upper()
            what = f"the {program} server {server} to answer {name}"
            return Wait("server", int(client.cl_xprt), what, block=self._of_server(int(client.cl_xprt)))
        return None

    def _of_server(self, transport: int) -> int:
        """The super block of the only file system that is reached by a transport, else 0."""
        objects = self._objects
        found = [
            objects.address(block)
            for block in self._blocks
            if self._kind(objects.address(block)) in ("nfs", "nfs4")
            and int(self._context.struct("nfs_server", int(block.s_fs_info)).client.cl_xprt) == transport
        ]
        return found[0] if len(found) == 1 else 0

    # Completions

    def _done(self, task: Task) -> int:
        """Address of the struct completion that a task waits for, 0 if absent."""
        objects, types = self._objects, self._objects.types
        entry, layout = types.struct("swait_queue"), types.struct("completion")
        for place in self._stacks.places(task, objects.address(task.struct)):
            node = place - entry.offset("task") + entry.offset("task_list")
            head = self._head_of(node)
            if head:
                done = head - layout.offset("wait.task_list")
                if objects.unsigned(done, 4) == 0:
                    return done
        return 0

    def _head_of(self, node: int) -> int:
        """The head of the ring in which a waiter is: the one node whose neighbours are not waiters' own."""
        ring = self._stacks.ring(node)
        if len(ring) < 2:
            return 0
        kind = self._objects.types.struct("swait_queue")
        tasks = self._tasks
        heads = [
            each
            for each in ring
            if self._objects.unsigned(each - kind.offset("task_list") + kind.offset("task")) not in tasks
        ]
        return heads[0] if len(heads) == 1 else 0

    @cached_property
    def _tasks(self) -> set[int]:
        return set(self._context.tasks.all.address.tolist())

    def _completion(self, task: Task) -> Wait | None:
        done = self._done(task)
        if not done:
            return None
        name = "" if self._stacks.holds(done) else f" {self.name(done)}"
        return Wait("completion", done, f"the completion{name}", self._stack_owner(done, task), how="on the stack of")

    def _stack_owner(self, address: int, task: Task) -> int:
        """The task on whose stack an address lies, if that is another one."""
        if not self._stacks.holds(address):
            return 0
        table = self._context.tasks.all
        rows = (table.columns["stack"].astype("u8") == address & -self._stacks.size).nonzero()[0]
        owner = int(table.address[rows[0]]) if len(rows) else 0
        return owner if owner != self._objects.address(task.struct) else 0

    def _io(self, task: Task) -> Wait | None:
        """A bio or request of the task's own: its `bi_private` or `end_io_data` is the completion."""
        objects = self._objects
        done = self._done(task)
        if not done:
            return None
        for request in self._context.requests:
            if int(request.struct.end_io_data) == done or any(int(b.bi_private) == done for b in storage.bios(request)):
                return Wait("request", done, _of_request(request), request=request)
        layout = objects.types.struct("bio")
        for place in self._stacks.places(task, done):
            bio = objects.struct("bio", place - layout.offset("bi_private"))
            disk = int(bio.bi_bdev.bd_disk) if bio.bi_bdev else 0
            if disk in {objects.address(each) for each in self._context.disks}:
                oldest = max(
                    (request for request in self._context.requests if request.disk == disk),
                    key=lambda request: request.age or 0.0,
                    default=None,
                )
                name = self._device(bio.bi_bdev)
                return Wait("request", done, f"I/O of its own to {name}", request=oldest)
        return None

    # Work

    @cached_property
    def _pools(self) -> list[Struct]:
        objects = self._objects
        pools = objects.struct("idr", objects.symbols.address("worker_pool_idr")).idr_rt
        return [objects.struct("worker_pool", address) for _, address in objects.xarray(pools, _MAX_POOLS)]

    @cached_property
    def _workers(self) -> list[Struct]:
        objects = self._objects
        heads = [head for pool in self._pools for head in pool.busy_hash]
        return [worker for head in heads for worker in objects.hlist(head, "worker", "hentry")]

    def _work(self, task: Task) -> Wait | None:
        """A flush of one work item: a barrier on the task's stack, queued behind the item."""
        objects, types = self._objects, self._objects.types
        layout = types.struct("wq_barrier")
        own = objects.address(task.struct)
        for place in self._stacks.places(task, own):
            node = place - layout.offset("task") + layout.offset("work.entry")
            ring = self._stacks.ring(node)
            for worker in self._workers if ring else ():
                if objects.address(worker.scheduled) in ring:
                    name = self._function(int(worker.current_func))
                    return Wait("work", node, f"the work item {name}", int(worker.task), how="which runs in")
            for pool in self._pools if ring else ():
                if objects.address(pool.worklist) in ring:
                    before = ring[ring.index(node) - 1]
                    work = objects.container(before, "work_struct", "entry")
                    busy = [each for each in self._workers if each.pool == objects.address(pool)]
                    what = f"the work item {self._function(int(work.func))}, which has not begun"
                    owner = int(busy[0].task) if len(busy) == 1 else 0
                    return Wait("work", node, what, owner, how="behind that of")
        return None

    def _workqueue(self, task: Task) -> Wait | None:
        objects, types = self._objects, self._objects.types
        done = self._done(task)
        if not done or not types.has_struct("wq_flusher"):
            return None
        flusher = done - types.struct("wq_flusher").offset("done")
        for queue in objects.list(objects.variable("workqueues"), "workqueue_struct", "list"):
            waiting = list(objects.nodes(objects.address(queue.flusher_queue), _MAX_QUEUES, "list of flushers"))
            if int(queue.first_flusher) != flusher and flusher not in waiting:
                continue
            here = objects.address(queue)
            busy = [worker for worker in self._workers if worker.current_pwq and worker.current_pwq.wq == here]
            functions = ", ".join(dict.fromkeys(self._function(int(worker.current_func)) for worker in busy))
            what = f"the workqueue {clean(objects.string(queue.name))}" + (f" (it runs {functions})" if busy else "")
            return Wait("workqueue", here, what, int(busy[0].task) if busy else 0, how="whose worker is")
        return None

    def _function(self, address: int) -> str:
        symbol = self._context.kernel.symbolizer.at(address)
        return f"{clean(symbol.name)}()" if symbol and symbol.name else f"{address:#x}"

    # RCU

    def _grace_period(self, task: Task) -> Wait | None:
        """A grace period: the CPU or the reader that has yet to let it end, where the tree of RCU tells one."""
        objects = self._objects
        if not self._done(task):
            return None
        state = objects.symbols.get("rcu_state") or 0
        for node in self._leaves():
            if objects.has(node, "gp_tasks") and node.gp_tasks:
                member = objects.types.struct("task_struct").offset("rcu_node_entry")
                return Wait("grace period", state, "the end of an RCU grace period", int(node.gp_tasks) - member,
                            how="held up by the reader")  # fmt: skip
            late = int(node.qsmask)
            if late:
                cpu = int(node.grplo) + (late & -late).bit_length() - 1
                running = self._context.tasks.running().get(cpu)
                owner = objects.address(running) if running is not None and int(running.pid) else 0
                return Wait("grace period", state, f"the end of an RCU grace period, which CPU {cpu} has not passed",
                            owner, how="held up by")  # fmt: skip
        return Wait("grace period", state, "the end of an RCU grace period")

    def _leaves(self) -> Iterator[Struct]:
        objects = self._objects
        place = objects.symbols.get("rcu_state")
        if place is None or not objects.types.has_struct("rcu_state"):
            return
        nodes = objects.struct("rcu_state", place).node
        last = (objects.number("rcu_num_lvls") or 1) - 1
        for index in range(min(objects.number("rcu_num_nodes") or 1, len(nodes), _MAX_NODES)):
            if int(nodes[index].level) == last:
                yield nodes[index]

    # Journals

    def _journal(self, task: Task) -> Wait | None:
        """A commit of an ext4 journal: one of the journal's wait queues holds the task."""
        objects, types = self._objects, self._objects.types
        private = types.struct("wait_queue_entry").offset("private")
        for block in self._blocks:
            if objects.string(block.s_type.name) != "ext4" or not block.s_fs_info:
                continue
            start = int(self._context.struct("ext4_sb_info", int(block.s_fs_info)).s_journal)
            if not start:
                continue
            end = start + self._context.types_of("journal_s").struct("journal_s").size
            for place in self._stacks.places(task, objects.address(task.struct)):
                if any(start <= node < end for node in self._stacks.ring(self._entry(place - private))):
                    here = objects.address(block)
                    what = f"the journal of {self._mounted(here)}"
                    thread = int(self._context.struct("journal_s", start).j_task)
                    return Wait("journal", start, what, thread, how="committed by", block=here)
        return None


_WORDS = {
    "mutex": "mutex", "rw_semaphore": "rw_semaphore", "percpu_rw_semaphore": "per-CPU rw_semaphore",
    "rt_mutex": "rt_mutex",
}  # fmt: skip


def _of_request(request: storage.Request) -> str:
    return f"its {request.operation} to {request.name}"
