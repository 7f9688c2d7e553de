/*
 * Pages in snappy's format and in LZO1X's, on a little-endian machine. Figures are in docs/decisions/0030-dump-engine.md.
 *
 * Both formats are bytes as they are and repeats of what came before; only how these are written differs. Repeats are looked
 * for as either library does it, and a repeat also takes the bytes before it that are the same. Nothing outlives a page, so the
 * same page becomes the same bytes. Sources of the formats: snappy's format_description.txt, the kernel's
 * Documentation/staging/lzo.rst.
 */
#include "api.h"
#include "bytes.h"

enum {
	BITS = 11,	/* of the hash of four bytes, by which the last place is remembered where they were found */
	SHORTEST = 4,	/* bytes of a repeat */
	WINDOW = 1 << 14,	/* how far back a repeat may lie */
	MARGIN = 16,	/* bytes before a page's end where no repeat begins */
	PATIENCE = 5,	/* after 2^PATIENCE places without a repeat every second one is looked at, then fewer and fewer */
};

/* How a format is written: each function returns where the next byte goes. */
struct format {
	unsigned char *(*begin)(unsigned char *at, size_t size);
	/* The head of `count` bytes that follow as they are; `first`: nothing was written before. */
	unsigned char *(*literals)(unsigned char *at, size_t count, int first);
	unsigned char *(*repeat)(unsigned char *at, size_t distance, size_t count);
	unsigned char *(*end)(unsigned char *at);
};

#define INLINE static inline __attribute__((always_inline))

INLINE uint16_t *remembered(uint16_t *places, uint32_t word)
{
	return &places[word * 0x9E3779B1u >> (32 - BITS)];
}

/* Bytes of the page from `from` up to `to` as they are, with their head. Up to MARGIN bytes more are written. */
INLINE unsigned char *put(struct format format, unsigned char *out, const unsigned char *page, size_t size, size_t from, size_t to)
{
	size_t count = to - from;

	if (!count)
		return out;
	out = format.literals(out, count, !from);
	if (count <= MARGIN && from + MARGIN <= size)
		memcpy(out, page + from, MARGIN);
	else
		memcpy(out, page + from, count);
	return out + count;
}

/* Packs a page of 64 bytes to 64 KiB; returns its size, or `size` if it would be no smaller. */
INLINE size_t pack(struct format format, const unsigned char *page, size_t size, unsigned char *target, uint16_t *places)
{
	size_t done = 0, at = 1;	/* the page's bytes before `done` are written */
	unsigned char *out = format.begin(target, size), *limit = target + size;
	size_t step = 1 << PATIENCE;

	memset(places, 0, sizeof(*places) << BITS);
	while (at < size - MARGIN) {
		uint32_t word = word_at(page + at);
		uint16_t *place = remembered(places, word);
		size_t before = *place, count = SHORTEST;

		*place = (uint16_t)at;
		if (word_at(page + before) != word || at - before >= WINDOW) {
			at += step >> PATIENCE;
			step += step >> PATIENCE;
			continue;
		}
		for (; at > done && before && page[at - 1] == page[before - 1]; count++)
			at--, before--;
		if ((size_t)(limit - out) < at - done)
			return size;
		out = put(format, out, page, size, done, at);
		count += same(page + at + count, page + before + count, page + size);
		out = format.repeat(out, at - before, count);
		if (out >= limit)
			return size;
		done = at += count;
		step = 1 << PATIENCE;
		if (at < size - MARGIN)
			*remembered(places, word_at(page + at - 1)) = (uint16_t)(at - 1);
	}
	if ((size_t)(limit - out) < size - done)
		return size;
	out = format.end(put(format, out, page, size, done, size));
	return out < limit ? (size_t)(out - target) : size;
}

INLINE unsigned char *snappy_begin(unsigned char *at, size_t size)
{
	for (; size >= 0x80; size >>= 7)
		*at++ = (unsigned char)(size | 0x80);
	*at++ = (unsigned char)size;
	return at;
}

INLINE unsigned char *snappy_literals(unsigned char *at, size_t count, int first)
{
	size_t rest = count - 1;

	(void)first;
	if (rest < 60) {
		*at++ = (unsigned char)(rest << 2);
		return at;
	}
	*at++ = rest < 1 << 8 ? 60 << 2 : 61 << 2;
	*at++ = (unsigned char)rest;
	if (rest >= 1 << 8)
		*at++ = (unsigned char)(rest >> 8);
	return at;
}

INLINE unsigned char *snappy_piece(unsigned char *at, size_t distance, size_t count)
{
	*at++ = (unsigned char)((count - 1) << 2 | 2);
	*at++ = (unsigned char)distance;
	*at++ = (unsigned char)(distance >> 8);
	return at;
}

INLINE unsigned char *snappy_repeat(unsigned char *at, size_t distance, size_t count)
{
	enum { MOST = 64 };

	for (; count >= MOST + SHORTEST; count -= MOST)
		at = snappy_piece(at, distance, MOST);
	if (count > MOST) {	/* so that what is left is no shorter than the short form takes */
		at = snappy_piece(at, distance, MOST - SHORTEST);
		count -= MOST - SHORTEST;
	}
	if (count >= 12 || distance >= 2048)
		return snappy_piece(at, distance, count);
	*at++ = (unsigned char)(distance >> 8 << 5 | (count - 4) << 2 | 1);
	*at++ = (unsigned char)distance;
	return at;
}

INLINE unsigned char *snappy_end(unsigned char *at)
{
	return at;
}

INLINE unsigned char *lzo_begin(unsigned char *at, size_t size)
{
	(void)size;
	return at;
}

/* What of a number did not fit into an instruction: a zero for each 255 of it, and the rest of 1 to 255. */
INLINE unsigned char *lzo_number(unsigned char *at, size_t number)
{
	for (; number > 255; number -= 255)
		*at++ = 0;
	*at++ = (unsigned char)number;
	return at;
}

INLINE unsigned char *lzo_literals(unsigned char *at, size_t count, int first)
{
	if (first && count <= 238) {
		*at++ = (unsigned char)(17 + count);
	} else if (count <= 3) {
		at[-2] |= (unsigned char)count;	/* the repeat before has room for it there */
	} else if (count <= 18) {
		*at++ = (unsigned char)(count - 3);
	} else {
		*at++ = 0;
		at = lzo_number(at, count - 18);
	}
	return at;
}

INLINE unsigned char *lzo_repeat(unsigned char *at, size_t distance, size_t count)
{
	size_t back = distance - 1;

	if (count <= 8 && distance <= 2048) {
		*at++ = (unsigned char)((count - 1) << 5 | (back & 7) << 2);
		*at++ = (unsigned char)(back >> 3);
		return at;
	}
	if (count <= 33) {
		*at++ = (unsigned char)(32 | (count - 2));
	} else {
		*at++ = 32;
		at = lzo_number(at, count - 33);
	}
	*at++ = (unsigned char)(back << 2);
	*at++ = (unsigned char)(back >> 6);
	return at;
}

INLINE unsigned char *lzo_end(unsigned char *at)
{
	static const unsigned char mark[] = {17, 0, 0};	/* a repeat from nowhere */

	memcpy(at, mark, sizeof(mark));
	return at + sizeof(mark);
}

/* Bytes of memory that the next two work with. */
API size_t kdump_lz_work(void)
{
	return sizeof(uint16_t) << BITS;
}

/*
 * A page as snappy's or LZO1X's stream, as a `compressor` of loops.c. `*length` becomes its size, or that of the page if it
 * would be no less: what was written is nothing then. Up to size / 16 + 320 bytes more than `size` are written.
 */
API int kdump_snappy(const void *page, size_t size, void *target, size_t *length, void *work)
{
	const struct format format = {snappy_begin, snappy_literals, snappy_repeat, snappy_end};

	*length = pack(format, page, size, target, work);
	return 0;
}

API int kdump_lzo(const void *page, size_t size, void *target, size_t *length, void *work)
{
	const struct format format = {lzo_begin, lzo_literals, lzo_repeat, lzo_end};

	*length = pack(format, page, size, target, work);
	return 0;
}
