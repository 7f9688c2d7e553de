// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Replaces a function of the running kernel, for tests of the report: /proc/cmdline says so from then on.
 */
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>

static int patched_cmdline_proc_show(struct seq_file *file, void *data)
{
	seq_puts(file, "patched\n");
	return 0;
}

static struct klp_func functions[] = {
	{ .old_name = "cmdline_proc_show", .new_func = patched_cmdline_proc_show },
	{ },
};

static struct klp_object objects[] = {
	{ .funcs = functions },
	{ },
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static int __init livepatch_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit livepatch_exit(void)
{
}

module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("patches a function, for tests");
MODULE_INFO(livepatch, "Y");
