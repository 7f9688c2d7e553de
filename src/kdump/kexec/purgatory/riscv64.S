/*
 * Purgatory: what runs between the dead kernel and the capture kernel, riscv64.
 *
 * The dying kernel jumps to the first byte in supervisor mode with paging and interrupts off, a0 = the number of this
 * hart (arch/riscv/kernel/kexec_relocate.S). It
 *
 *   1. checks the checksum of every segment that was loaded, and refuses to boot a damaged one: it says so on the
 *      firmware's console, waits, and has the firmware reset the machine (SBI specification, chapters 5 and 10);
 *   2. enters the capture kernel (Documentation/arch/riscv/boot.rst): a0 = the hart, a1 = the device tree.
 *
 * It is one flat, position-independent piece without a stack. The loader fills in the block at `parameters`; its layout
 * is declared in riscv64.py and checked by the tests. `tools/purgatory` builds it.
 */

	.option	norvc			/* each instruction has four bytes, and none is replaced by a shorter one */
	.option	norelax
	.text
	.globl	_start
_start:
	j	start
	.balign	8
	.ascii	"KDUMPPR1"		/* magic and layout version */

parameters:				/* offset 16 */
kernel_entry:	.quad	0
device_tree:	.quad	0
reset_ticks:	.quad	0		/* how long to wait, in ticks of the time register */
resets:		.quad	0		/* 0: stop for good */
region_count:	.quad	0
regions:				/* address, size (a multiple of 8), checksum */
	.fill	16 * 24, 1, 0

check_regions:				/* a0: the damaged region's record, or NULL */
	lla	a0, regions
	ld	t0, region_count
	ld	t1, step		/* SplitMix64's numbers: see checksum.py */
	ld	t2, first
	ld	t3, second
1:	beqz	t0, 4f
	ld	a1, 0(a0)
	ld	a2, 8(a0)
	ld	a3, 16(a0)
	li	a4, 0			/* the sum */
	li	a6, 0			/* the number of the word, times the step */
2:	beqz	a2, 3f
	ld	a5, 0(a1)
	addi	a1, a1, 8
	add	a6, a6, t1
	add	a5, a5, a6
	srli	t4, a5, 30
	xor	a5, a5, t4
	mul	a5, a5, t2
	srli	t4, a5, 27
	xor	a5, a5, t4
	mul	a5, a5, t3
	srli	t4, a5, 31
	xor	a5, a5, t4
	add	a4, a4, a5
	addi	a2, a2, -8
	j	2b
3:	bne	a4, a3, 5f
	addi	a0, a0, 24
	addi	t0, t0, -1
	j	1b
4:	li	a0, 0
5:	ret

start:
	mv	s0, a0			/* the hart */
	call	check_regions
	bnez	a0, damaged
	ld	t0, kernel_entry
	mv	a0, s0
	ld	a1, device_tree
	fence.i
	jr	t0

damaged:
	ld	s1, 0(a0)		/* the address to complain about */
	lla	s2, message
1:	lbu	a0, 0(s2)
	addi	s2, s2, 1
	beqz	a0, digits
	call	put
	j	1b
digits:	li	s3, 60			/* from the highest four bits to the lowest */
2:	srl	a0, s1, s3
	andi	a0, a0, 15
	addi	a0, a0, '0'
	li	t0, '9'
	ble	a0, t0, 3f
	addi	a0, a0, 'a' - '0' - 10
3:	call	put
	addi	s3, s3, -4
	bgez	s3, 2b
	lla	s2, rest
4:	lbu	a0, 0(s2)
	addi	s2, s2, 1
	beqz	a0, wait
	call	put
	j	4b

wait:	ld	t0, resets
	beqz	t0, stop
	ld	t0, reset_ticks
	rdtime	t1
1:	rdtime	t2
	sub	t2, t2, t1
	bltu	t2, t0, 1b
	li	a7, 0x53525354		/* "SRST", system reset */
	li	a6, 0
	li	a0, 1			/* cold reboot */
	li	a1, 1			/* system failure */
	ecall
stop:	wfi
	j	stop

put:	li	a7, 1			/* console putchar, which every firmware has; a6 is not looked at */
	ecall
	ret

message:	.asciz	"\r\nkdump: the segment at 0x"
rest:		.asciz	" is damaged; not booting it.\r\n"
	.balign	8
step:		.quad	0x9e3779b97f4a7c15
first:		.quad	0xbf58476d1ce4e5b9
second:		.quad	0x94d049bb133111eb
