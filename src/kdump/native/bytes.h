/* Bytes of a page as words, on a little-endian machine. */
#ifndef KDUMP_BYTES_H
#define KDUMP_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t word_at(const unsigned char *place)
{
	uint32_t word;

	memcpy(&word, place, sizeof(word));
	return word;
}

/* How many bytes are the same at `a` and `b`, of those before `end` that `a` has. */
static inline unsigned same(const unsigned char *a, const unsigned char *b, const unsigned char *end)
{
	const unsigned char *begin = a;

	for (; a + 8 <= end; a += 8, b += 8) {
		uint64_t here, there;

		memcpy(&here, a, 8);
		memcpy(&there, b, 8);
		if (here != there)
			return (unsigned)(a - begin) + ((unsigned)__builtin_ctzll(here ^ there) >> 3);
	}
	for (; a < end && *a == *b; a++)
		b++;
	return (unsigned)(a - begin);
}

#endif
