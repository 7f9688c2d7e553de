/*
 * Purgatory: what runs between the dead kernel and the capture kernel, x86_64.
 *
 * The dying kernel jumps to the first byte, in 64-bit mode, with memory identity-mapped, interrupts off, and no stack
 * to speak of (arch/x86/kernel/relocate_kernel_64.S). This code
 *
 *   1. checks the checksum of every segment that was loaded, and refuses to boot a damaged one: it says so on the
 *      serial port and the screen, waits, and resets the machine;
 *   2. copies the low memory that the capture kernel is about to use to its backup region;
 *   3. enters the capture kernel by the 64-bit boot protocol (Documentation/arch/x86/boot.rst): %rsi = boot_params,
 *      flat segments in selectors 0x10 and 0x18.
 *
 * It is one flat, position-independent piece: every reference is relative to %rip. The loader fills in the block at
 * `parameters`; its layout is declared in __init__.py and checked by the tests. `tools/purgatory` builds it.
 */

	.code64
	.text
	.globl	_start
_start:
	jmp	start
	.balign	8
	.ascii	"KDUMPPG2"		/* magic and layout version */

parameters:				/* offset 16 */
kernel_entry:	.quad	0		/* 64-bit entry point of the kernel */
boot_params:	.quad	0
backup_from:	.quad	0
backup_to:	.quad	0
backup_size:	.quad	0		/* bytes, a multiple of 8; 0: nothing to copy */
serial_port:	.long	0		/* I/O port of a 16550; 0: none */
use_vga:	.long	0		/* write to the text screen at 0xb8000 */
reset_after:	.quad	0		/* microseconds, roughly; 0: stop for good */
region_count:	.quad	0
regions:				/* address, size (a multiple of 8), checksum */
	.fill	16 * 24, 1, 0

	.globl	check_for_tests		/* the check as a C function, at a fixed place for the tests */
check_for_tests:			/* returns the damaged region's record, or NULL */
	jmp	check_regions

start:
	cli
	cld
	leaq	stack_end(%rip), %rsp
	leaq	gdt(%rip), %rax		/* the dead kernel has emptied the descriptor table: bring our own */
	movq	%rax, gdt_base(%rip)
	movw	$gdt_end - gdt - 1, gdt_limit(%rip)
	lgdt	gdt_limit(%rip)
	movl	$0x18, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	pushq	$0x10
	leaq	1f(%rip), %rax
	pushq	%rax
	lretq
1:
	call	check_regions
	testq	%rax, %rax
	jnz	damaged

	movq	backup_from(%rip), %rsi
	movq	backup_to(%rip), %rdi
	movq	backup_size(%rip), %rcx
	shrq	$3, %rcx
	rep movsq

	movq	boot_params(%rip), %rsi
	xorl	%ebx, %ebx		/* boot CPU */
	xorl	%ebp, %ebp
	xorl	%edi, %edi
	jmp	*kernel_entry(%rip)

/*
 * Compare every region's checksum; %rax = record of the first one that differs, or 0. Keeps the registers that the C
 * calling convention wants kept.
 *
 * The checksum of 64-bit words w(1) to w(n) is the sum, modulo 2^64, of mix(w(i) + i * STEP); STEP and mix are those of
 * the generator SplitMix64. mix is one to one, so a change of one word is always found.
 */
	.set	STEP, 0x9e3779b97f4a7c15
check_regions:
	pushq	%rbx
	pushq	%rbp
	movabsq	$STEP, %r10
	movabsq	$0xbf58476d1ce4e5b9, %r11
	movabsq	$0x94d049bb133111eb, %rdi
	leaq	regions(%rip), %rbp
	movq	region_count(%rip), %rbx
next_region:
	xorl	%eax, %eax
	testq	%rbx, %rbx
	jz	checked

	movq	(%rbp), %rsi
	movq	8(%rbp), %rcx
	xorl	%r8d, %r8d		/* the sum */
	xorl	%r9d, %r9d		/* i * STEP */
	shrq	$3, %rcx
	jz	2f
1:	addq	%r10, %r9
	movq	(%rsi), %rax
	addq	%r9, %rax
	movq	%rax, %rdx
	shrq	$30, %rdx
	xorq	%rdx, %rax
	imulq	%r11, %rax
	movq	%rax, %rdx
	shrq	$27, %rdx
	xorq	%rdx, %rax
	imulq	%rdi, %rax
	movq	%rax, %rdx
	shrq	$31, %rdx
	xorq	%rdx, %rax
	addq	%rax, %r8
	addq	$8, %rsi
	decq	%rcx
	jnz	1b

2:	movq	%rbp, %rax
	cmpq	16(%rbp), %r8
	jne	checked
	addq	$24, %rbp
	decq	%rbx
	jmp	next_region
checked:
	popq	%rbp
	popq	%rbx
	ret

/* %rax = record of the damaged region: say where, wait, reset. */
damaged:
	movq	(%rax), %rbx		/* its address, as 16 hexadecimal digits into the message */
	leaq	message_address(%rip), %rdi
	movl	$16, %ecx
1:	rolq	$4, %rbx
	movl	%ebx, %eax
	andl	$15, %eax
	leaq	digits(%rip), %rdx
	movb	(%rdx,%rax), %al
	stosb
	loop	1b

	leaq	message(%rip), %rsi
	movl	$0xb8000, %edi
	movl	$message_end - message, %ebx
2:	lodsb
	cmpl	$0, use_vga(%rip)
	je	3f
	cmpb	$' ', %al
	jb	3f			/* no line ends on the screen */
	movb	$0x4f, %ah		/* white on red */
	stosw
3:	movl	serial_port(%rip), %edx
	testl	%edx, %edx
	jz	5f
	movb	%al, %ah
	addl	$5, %edx		/* line status: bit 5, room for a byte; a dead port must not hold us up */
	movl	$100000, %ecx
4:	inb	%dx, %al
	testb	$0x20, %al
	loopz	4b
	subl	$5, %edx
	movb	%ah, %al
	outb	%al, %dx
5:	decl	%ebx
	jnz	2b

	movq	reset_after(%rip), %rcx
	testq	%rcx, %rcx
	jz	stop
6:	outb	%al, $0x80		/* takes about a microsecond on any PC */
	loop	6b
	movb	$0xfe, %al		/* the keyboard controller's reset line */
	outb	%al, $0x64
	movw	$0xcf9, %dx		/* the chipset's reset register */
	movb	$0x06, %al
	outb	%al, %dx
	lidt	no_idt(%rip)		/* and a triple fault */
	int3
stop:
	hlt
	jmp	stop

	.balign	8
gdt:	.quad	0, 0			/* the descriptors are marked as used: the processor need not write here */
	.quad	0x00af9b000000ffff	/* 0x10: code, 64 bits */
	.quad	0x00cf93000000ffff	/* 0x18: data */
gdt_end:
no_idt:	.word	0
	.quad	0

message:
	.ascii	"\r\nkdump: the segment at 0x"
message_address:
	.ascii	"0000000000000000 is damaged; not booting it.\r\n"
message_end:
digits:	.ascii	"0123456789abcdef"

/*
 * What is written while all goes well is a page of its own, which the loader leaves empty: processors, and emulators by
 * a factor of thirty, are slow to write beside code that they run.
 */
	.bss
gdt_limit:
	.skip	2
gdt_base:
	.skip	8
	.balign	16
	.skip	512
stack_end:
