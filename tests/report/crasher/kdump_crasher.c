// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Crashes the kernel in the way its parameter names, for tests of the report: Debian builds no LKDTM.
 * insmod kdump_crasher.ko kind=null
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kfence.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu-rwsem.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

static char *kind = "null";
module_param(kind, charp, 0);

static volatile int zero;
static volatile unsigned long sink;
static int *volatile nowhere;
static int *volatile wild = (int *)0xffffffffdead0000;
static int *volatile noncanonical = (int *)0xdead000000000040;
static void (*volatile no_code)(void);
static DEFINE_MUTEX(first_lock);
static DEFINE_MUTEX(second_lock);
static DEFINE_SPINLOCK(spin);

struct item {
	struct list_head node;
	char payload[240];
};

/* With an object in a register that is free by then: the report says what registers point to. */
static noinline void crash_null(void)
{
	void *freed = kmalloc(240, GFP_KERNEL);

	kfree(freed);
	asm volatile("movl $1, (%0)" : : "r"(nowhere), "b"(freed) : "memory");
}

static noinline void crash_wild(void) { sink = *wild; }
static noinline void crash_noncanonical(void) { sink = *noncanonical; }
static noinline void crash_call(void) { no_code(); sink = 1; }
static noinline void crash_bug(void) { BUG_ON(!zero); }
static noinline void crash_warn(void) { WARN(1, "kdump_crasher warns\n"); }
static noinline void crash_divide(void) { sink = 100 / zero; }
static noinline void crash_panic(void) { panic("kdump_crasher: table %d has lost entry %#lx\n", 7, jiffies); }

static noinline void crash_list(void)
{
	static LIST_HEAD(head);
	struct item *item = kzalloc(sizeof(*item), GFP_KERNEL);

	list_add(&item->node, &head);
	item->node.next->prev = &item->node;
	head.next = &head;
	item->node.prev = (struct list_head *)item->payload;
	list_del(&item->node);
}

static noinline void crash_refcount(void)
{
	refcount_t count = REFCOUNT_INIT(0);

	refcount_inc(&count);
}

static noinline void crash_uaf(void)
{
	struct item *item = kzalloc(sizeof(*item), GFP_KERNEL);
	LIST_HEAD(head);

	list_add(&item->node, &head);
	list_del(&item->node);
	/* What list_del() leaves behind is poison: the next use faults. */
	sink = (unsigned long)item->node.next->next;
}

static noinline void crash_double_free(void)
{
	void *object = kmalloc(256, GFP_KERNEL);

	kfree(object);
	kfree(object);
}

static noinline int recurse(int depth)
{
	volatile char room[512];

	memset((void *)room, depth, sizeof(room));
	return recurse(depth + 1) + room[depth & 511];
}

static noinline void crash_overflow(void) { sink = recurse(1); }

static noinline void crash_usercopy(void)
{
	char *object = kmalloc(64, GFP_KERNEL);
	unsigned long size = 4096 + zero;

	/* Or the compiler's own check of the copy's size comes first. */
	OPTIMIZER_HIDE_VAR(object);
	sink = copy_to_user((void __user *)0x400000, object, size);
}

static noinline void crash_softlockup(void)
{
	preempt_disable();
	for (;;)
		cpu_relax();
}

static noinline int spin_without_interrupts(void *unused)
{
	/* Loading a module ends with calls to all CPUs: let that be over. */
	msleep(3000);
	local_irq_disable();
	for (;;)
		cpu_relax();
	return 0;
}

/* On a CPU of its own: whoever loaded the module goes on. */
static void crash_hardlockup(void)
{
	struct task_struct *task = kthread_create(spin_without_interrupts, NULL, "crasher_spin");

	kthread_bind(task, num_online_cpus() - 1);
	wake_up_process(task);
}

/* Every so many milliseconds an allocation comes from KFENCE's guarded pool. */
static noinline void crash_kfence(void)
{
	volatile int *object;

	for (;;) {
		object = kmalloc(128, GFP_KERNEL);
		kfree((void *)object);
		if (is_kfence_address((void *)object)) {
			sink = *object;
			return;
		}
		cond_resched();
	}
}

static noinline void crash_spinlock(void)
{
	spin_lock(&spin);
	spin_lock(&spin);
	sink = 1; /* or the second call is a jump, and this function no longer on the stack */
}

static noinline void crash_atomic(void)
{
	spin_lock(&spin);
	msleep(10);
	spin_unlock(&spin);
}

static noinline int take_both(void *reverse)
{
	struct mutex *one = reverse ? &second_lock : &first_lock;
	struct mutex *other = reverse ? &first_lock : &second_lock;

	mutex_lock(one);
	msleep(500);
	mutex_lock(other);
	mutex_unlock(other);
	mutex_unlock(one);
	return 0;
}

/* Holds a mutex and two semaphores and sleeps, as a task may that waits for an answer that never comes. */
static DEFINE_MUTEX(held_lock);
static struct percpu_rw_semaphore held_semaphore;
static DECLARE_RWSEM(held_rwsem);
static DECLARE_COMPLETION(never);
static struct workqueue_struct *queue;

static noinline int hold(void *unused)
{
	mutex_lock(&held_lock);
	down_write(&held_rwsem);
	percpu_down_write(&held_semaphore);
	for (;;)
		msleep_interruptible(600000);
	return 0;
}

static noinline int wait_mutex(void *unused)
{
	mutex_lock(&held_lock);
	mutex_unlock(&held_lock);
	return 0;
}

static noinline int wait_percpu(void *unused)
{
	percpu_down_read(&held_semaphore);
	percpu_up_read(&held_semaphore);
	return 0;
}

static noinline int wait_rwsem(void *unused)
{
	down_read(&held_rwsem);
	up_read(&held_rwsem);
	return 0;
}

static noinline void stuck_function(struct work_struct *work)
{
	mutex_lock(&held_lock);
	mutex_unlock(&held_lock);
}
static DECLARE_WORK(stuck_work, stuck_function);

static noinline int wait_work(void *unused)
{
	schedule_work(&stuck_work);
	msleep(200);
	flush_work(&stuck_work);
	return 0;
}

static noinline void queued_function(struct work_struct *work)
{
	mutex_lock(&held_lock);
	mutex_unlock(&held_lock);
}
static DECLARE_WORK(queued_work, queued_function);

static noinline int wait_queue(void *unused)
{
	queue_work(queue, &queued_work);
	msleep(200);
	flush_workqueue(queue);
	return 0;
}

/* Keeps RCU from ending a grace period, as a loop does that never lets go. Whoever loaded the module is done by then. */
static noinline int read_for_ever(void *unused)
{
	msleep(1000);
	rcu_read_lock();
	for (;;)
		cpu_relax();
	return 0;
}

static noinline int wait_grace_period(void *unused)
{
	msleep(1500);
	synchronize_rcu();
	return 0;
}

static noinline int wait_completion(void *unused)
{
	wait_for_completion(&never);
	return 0;
}

/* One task waits for each kind of thing, and the chains end in the holder. */
static void start_chains(void)
{
	queue = alloc_workqueue("crasher_queue", 0, 0);
	if (!queue || percpu_init_rwsem(&held_semaphore))
		return;
	kthread_run(hold, NULL, "crasher_hold");
	msleep(200);
	kthread_run(wait_mutex, NULL, "crasher_mutex");
	kthread_run(wait_percpu, NULL, "crasher_percpu");
	kthread_run(wait_work, NULL, "crasher_flush");
	kthread_run(wait_completion, NULL, "crasher_compl");
	kthread_run(wait_rwsem, NULL, "crasher_rwsem");
	kthread_run(wait_queue, NULL, "crasher_queue");
}

/* Whoever needs RCU from then on waits too. On PREEMPT_RT RCU would boost the reader, and starve all others. */
static void start_reader(void)
{
	struct task_struct *task;

	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		return;
	task = kthread_create(read_for_ever, NULL, "crasher_reader");
	kthread_bind(task, num_online_cpus() - 1);
	wake_up_process(task);
	kthread_run(wait_grace_period, NULL, "crasher_rcu");
}

static void crash_deadlock(void)
{
	kthread_run(take_both, NULL, "crasher_one");
	kthread_run(take_both, (void *)1, "crasher_two");
	msleep(1000);
	start_chains();
}

static void crash_stuck(void)
{
	crash_deadlock();
	start_reader();
}

static const struct {
	const char *name;
	void (*run)(void);
} kinds[] = {
	{ "null", crash_null }, { "wild", crash_wild }, { "noncanonical", crash_noncanonical }, { "call", crash_call },
	{ "bug", crash_bug }, { "warn", crash_warn }, { "divide", crash_divide }, { "panic", crash_panic },
	{ "list", crash_list }, { "refcount", crash_refcount }, { "uaf", crash_uaf }, { "double-free", crash_double_free },
	{ "overflow", crash_overflow }, { "usercopy", crash_usercopy }, { "softlockup", crash_softlockup },
	{ "hardlockup", crash_hardlockup }, { "spinlock", crash_spinlock }, { "atomic", crash_atomic },
	{ "deadlock", crash_deadlock }, { "stuck", crash_stuck },
	{ "kfence", crash_kfence },
};

static int __init crasher_init(void)
{
	int number;

	for (number = 0; number < ARRAY_SIZE(kinds); number++) {
		if (!strcmp(kinds[number].name, kind)) {
			pr_info("kdump_crasher: %s\n", kind);
			kinds[number].run();
			return 0;
		}
	}
	return -EINVAL;
}
module_init(crasher_init);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("crashes the kernel, for tests");
