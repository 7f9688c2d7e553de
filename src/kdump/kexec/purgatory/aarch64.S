/*
 * Purgatory: what runs between the dead kernel and the capture kernel, aarch64.
 *
 * The dying kernel jumps to the first byte with the MMU and the caches off, interrupts masked, at the exception
 * level that it booted at (arch/arm64/kernel/cpu-reset.S). kexec_load(2) gives the next kernel no device tree, so the
 * least this code is there for is to put that in x0. It
 *
 *   1. turns the instruction cache on, which needs no page tables, and which the next kernel may find on or off;
 *   2. checks the checksum of every segment that was loaded, and refuses to boot a damaged one: it says so on the
 *      serial port, waits, and resets the machine through its firmware (PSCI). Without page tables memory is Device
 *      memory: every load waits for it, so loads are as wide and as few as they can be;
 *   3. enters the capture kernel (Documentation/arch/arm64/booting.rst): x0 = the device tree, x1 to x3 = 0.
 *
 * It is one flat, position-independent piece without a stack. The loader fills in the block at `parameters`; its layout
 * is declared in aarch64.py and checked by the tests. `tools/purgatory` builds it.
 */

	.text
	.globl	_start
_start:
	b	start
	.balign	8
	.ascii	"KDUMPPA1"		/* magic and layout version */

parameters:				/* offset 16 */
kernel_entry:	.quad	0
device_tree:	.quad	0
uart:		.quad	0		/* physical address of a PL011; 0: none */
conduit:	.quad	0		/* of PSCI: 1 smc, 2 hvc; 0: none */
reset_after:	.quad	0		/* seconds */
resets:		.quad	0		/* 0: stop for good */
region_count:	.quad	0
regions:				/* address, size (a multiple of 8), checksum */
	.fill	16 * 24, 1, 0

	.macro	add_word word		/* its mix, to the sum */
	add	x6, x6, x10
	add	\word, \word, x6
	eor	\word, \word, \word, lsr #30
	mul	\word, \word, x11
	eor	\word, \word, \word, lsr #27
	mul	\word, \word, x12
	eor	\word, \word, \word, lsr #31
	add	x4, x4, \word
	.endm

check_regions:				/* x0: the damaged region's record, or NULL */
	adr	x0, regions
	ldr	x9, region_count
	ldr	x10, =0x9e3779b97f4a7c15	/* SplitMix64's numbers: see checksum.py */
	ldr	x11, =0xbf58476d1ce4e5b9
	ldr	x12, =0x94d049bb133111eb
1:	cbz	x9, 6f
	ldp	x1, x2, [x0]
	ldr	x3, [x0, #16]
	mov	x4, xzr			/* the sum */
	mov	x6, xzr			/* the number of the word, times the step */
2:	subs	x2, x2, #64
	b.lo	3f
	ldp	x5, x7, [x1]
	ldp	x8, x13, [x1, #16]
	ldp	x14, x15, [x1, #32]
	ldp	x16, x17, [x1, #48]
	add	x1, x1, #64
	add_word x5
	add_word x7
	add_word x8
	add_word x13
	add_word x14
	add_word x15
	add_word x16
	add_word x17
	b	2b
3:	adds	x2, x2, #64
	b.eq	5f
4:	ldr	x5, [x1], #8		/* the last words, fewer than eight */
	add_word x5
	subs	x2, x2, #8
	b.ne	4b
5:	cmp	x4, x3
	b.ne	7f
	add	x0, x0, #24
	sub	x9, x9, #1
	b	1b
6:	mov	x0, xzr
7:	ret

start:
	ic	iallu
	dsb	nsh
	isb
	mrs	x0, CurrentEL
	cmp	x0, #2 << 2
	b.eq	1f
	mrs	x0, sctlr_el1
	orr	x0, x0, #1 << 12	/* SCTLR_ELx.I */
	msr	sctlr_el1, x0
	b	2f
1:	mrs	x0, sctlr_el2
	orr	x0, x0, #1 << 12
	msr	sctlr_el2, x0
2:	isb
	bl	check_regions
	cbnz	x0, damaged
	ldr	x17, kernel_entry
	ldr	x0, device_tree
	mov	x1, xzr
	mov	x2, xzr
	mov	x3, xzr
	br	x17

damaged:
	ldr	x20, [x0]		/* the address to complain about */
	ldr	x21, uart
	cbz	x21, wait
	adr	x1, message
1:	ldrb	w2, [x1], #1
	cbz	w2, digits
	bl	put
	b	1b
digits:	mov	w22, #60		/* from the highest four bits to the lowest */
2:	lsr	x2, x20, x22
	and	w2, w2, #15
	cmp	w2, #10
	add	w3, w2, #'a' - 10
	add	w2, w2, #'0'
	csel	w2, w2, w3, lo
	bl	put
	subs	w22, w22, #4
	b.pl	2b
	adr	x1, rest
3:	ldrb	w2, [x1], #1
	cbz	w2, wait
	bl	put
	b	3b

wait:	ldr	x1, resets
	cbz	x1, stop
	ldr	x1, reset_after
	mrs	x2, cntfrq_el0
	mul	x1, x1, x2
	isb
	mrs	x3, cntvct_el0
1:	isb
	mrs	x4, cntvct_el0
	sub	x4, x4, x3
	cmp	x4, x1
	b.lo	1b
	mov	w0, #0x0009		/* SYSTEM_RESET (DEN0022) */
	movk	w0, #0x8400, lsl #16
	ldr	x1, conduit
	cmp	x1, #1
	b.eq	smc
	b.hi	hvc
stop:	wfi
	b	stop
smc:	smc	#0
	b	stop
hvc:	hvc	#0
	b	stop

put:	mov	w5, #0x100000		/* so many looks at the flag register at most */
1:	ldr	w6, [x21, #0x18]	/* UARTFR */
	tbz	w6, #5, 2f		/* the transmit FIFO is not full */
	subs	w5, w5, #1
	b.ne	1b
2:	str	w2, [x21]		/* UARTDR */
	ret

message:	.asciz	"\r\nkdump: the segment at 0x"
rest:		.asciz	" is damaged; not booting it.\r\n"
	.balign	8
	.ltorg
