/*
 * Purgatory: what runs between the dead kernel and the capture kernel, x86_64.
 *
 * The dying kernel jumps to the first byte, in 64-bit mode, with memory identity-mapped, interrupts off, and no stack
 * to speak of (arch/x86/kernel/relocate_kernel_64.S). This code
 *
 *   1. checks the SHA-256 of every segment that was loaded, and refuses to boot a damaged one: it says so on the
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
	.ascii	"KDUMPPG1"		/* magic and layout version */

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
regions:				/* address, size (a multiple of 64), SHA-256 as it is printed */
	.fill	16 * 48, 1, 0

	.globl	check_for_tests		/* the digest check as a C function, at a fixed place for the tests */
check_for_tests:			/* returns the damaged region's record, or NULL */
	jmp	check_regions

start:
	cli
	cld
	leaq	stack_end(%rip), %rsp
	leaq	gdt(%rip), %rax		/* the dead kernel has emptied the descriptor table: bring our own */
	movq	%rax, gdt_base(%rip)
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
 * Compare every region's digest; %rax = record of the first one that differs, or 0.
 * Keeps the registers that the C calling convention wants kept.
 */
check_regions:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	leaq	regions(%rip), %rbp
	movq	region_count(%rip), %rbx
next_region:
	xorl	%eax, %eax
	testq	%rbx, %rbx
	jz	checked

	leaq	initial_state(%rip), %rsi
	leaq	state(%rip), %rdi
	movl	$4, %ecx
	rep movsq
	movq	(%rbp), %rsi
	movq	8(%rbp), %rcx
	shrq	$6, %rcx
	call	hash_blocks

	/* Regions are whole blocks, so the padding is one block of its own: 0x80, zeros, the length in bits. */
	leaq	padding(%rip), %rsi
	movq	8(%rbp), %rax
	shlq	$3, %rax
	bswapq	%rax
	movq	%rax, 56(%rsi)
	movl	$1, %ecx
	call	hash_blocks

	leaq	state(%rip), %rsi
	leaq	16(%rbp), %rdi
	movl	$8, %ecx
compare_word:
	lodsl
	bswapl	%eax			/* a digest is printed big endian */
	scasl
	movq	%rbp, %rax
	jne	checked
	loop	compare_word

	addq	$48, %rbp
	decq	%rbx
	jmp	next_region
checked:
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

/*
 * One round of SHA-256 (FIPS 180-4, 6.2.2): the variables a to h stay where they are and their names rotate.
 * %rdi walks over the message schedule, %r14 over the constants. %r12d and %r13d are scratch.
 */
	.macro	ROUND a b c d e f g h i
	movl	\e, %r12d		/* rotations by 6, 11, 25 in three steps */
	rorl	$14, %r12d
	xorl	\e, %r12d
	rorl	$5, %r12d
	xorl	\e, %r12d
	rorl	$6, %r12d
	addl	%r12d, \h
	movl	\f, %r12d		/* choose f or g by e */
	xorl	\g, %r12d
	andl	\e, %r12d
	xorl	\g, %r12d
	addl	%r12d, \h
	addl	4 * \i(%rdi), \h
	addl	4 * \i(%r14), \h
	addl	\h, \d
	movl	\a, %r12d		/* rotations by 2, 13, 22 */
	rorl	$9, %r12d
	xorl	\a, %r12d
	rorl	$11, %r12d
	xorl	\a, %r12d
	rorl	$2, %r12d
	addl	%r12d, \h
	movl	\a, %r12d		/* majority of a, b, c */
	movl	\a, %r13d
	orl	\b, %r12d
	andl	\b, %r13d
	andl	\c, %r12d
	orl	%r13d, %r12d
	addl	%r12d, \h
	.endm

/* Take %rcx blocks of 64 bytes at %rsi into `state`. Keeps %rbx and %rbp. */
hash_blocks:
	pushq	%rbx
	movq	%rcx, %r15
next_block:
	testq	%r15, %r15
	jz	hashed

	leaq	schedule(%rip), %rdi	/* words 0 to 15: the block, big endian */
	movl	$16, %ecx
1:	lodsl
	bswapl	%eax
	stosl
	loop	1b
	movl	$48, %ecx		/* words 16 to 63: from those 2, 7, 15 and 16 before */
2:	movl	-60(%rdi), %eax
	movl	%eax, %edx
	movl	%eax, %r8d
	rorl	$7, %eax
	rorl	$18, %edx
	shrl	$3, %r8d
	xorl	%edx, %eax
	xorl	%r8d, %eax
	movl	-8(%rdi), %r9d
	movl	%r9d, %edx
	movl	%r9d, %r8d
	rorl	$17, %r9d
	rorl	$19, %edx
	shrl	$10, %r8d
	xorl	%edx, %r9d
	xorl	%r8d, %r9d
	addl	%r9d, %eax
	addl	-64(%rdi), %eax
	addl	-28(%rdi), %eax
	stosl
	loop	2b

	movl	state+0(%rip), %eax
	movl	state+4(%rip), %ebx
	movl	state+8(%rip), %ecx
	movl	state+12(%rip), %edx
	movl	state+16(%rip), %r8d
	movl	state+20(%rip), %r9d
	movl	state+24(%rip), %r10d
	movl	state+28(%rip), %r11d
	leaq	schedule(%rip), %rdi
	leaq	constants(%rip), %r14
3:	ROUND	%eax, %ebx, %ecx, %edx, %r8d, %r9d, %r10d, %r11d, 0
	ROUND	%r11d, %eax, %ebx, %ecx, %edx, %r8d, %r9d, %r10d, 1
	ROUND	%r10d, %r11d, %eax, %ebx, %ecx, %edx, %r8d, %r9d, 2
	ROUND	%r9d, %r10d, %r11d, %eax, %ebx, %ecx, %edx, %r8d, 3
	ROUND	%r8d, %r9d, %r10d, %r11d, %eax, %ebx, %ecx, %edx, 4
	ROUND	%edx, %r8d, %r9d, %r10d, %r11d, %eax, %ebx, %ecx, 5
	ROUND	%ecx, %edx, %r8d, %r9d, %r10d, %r11d, %eax, %ebx, 6
	ROUND	%ebx, %ecx, %edx, %r8d, %r9d, %r10d, %r11d, %eax, 7
	addq	$32, %rdi
	addq	$32, %r14
	leaq	constants_end(%rip), %r13
	cmpq	%r13, %r14
	jb	3b
	addl	%eax, state+0(%rip)
	addl	%ebx, state+4(%rip)
	addl	%ecx, state+8(%rip)
	addl	%edx, state+12(%rip)
	addl	%r8d, state+16(%rip)
	addl	%r9d, state+20(%rip)
	addl	%r10d, state+24(%rip)
	addl	%r11d, state+28(%rip)
	decq	%r15
	jmp	next_block
hashed:
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
gdt:	.quad	0, 0
	.quad	0x00af9a000000ffff	/* 0x10: code, 64 bits */
	.quad	0x00cf92000000ffff	/* 0x18: data */
gdt_limit:
	.word	gdt_limit - gdt - 1
gdt_base:
	.quad	0
no_idt:	.word	0
	.quad	0

message:
	.ascii	"\r\nkdump: the segment at 0x"
message_address:
	.ascii	"0000000000000000 is damaged; not booting it.\r\n"
message_end:
digits:	.ascii	"0123456789abcdef"

	.balign	4
initial_state:				/* FIPS 180-4, 5.3.3 */
	.long	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a
	.long	0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
constants:				/* FIPS 180-4, 4.2.2 */
	.long	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5
	.long	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174
	.long	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da
	.long	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967
	.long	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85
	.long	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070
	.long	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3
	.long	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
constants_end:

	.balign	8
padding:
	.byte	0x80
	.fill	63, 1, 0
state:	.fill	32, 1, 0
schedule:
	.fill	256, 1, 0
	.balign	16
stack:	.fill	512, 1, 0
stack_end:
