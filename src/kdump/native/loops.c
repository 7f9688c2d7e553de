/*
 * Loops over pages and over the kernel's tables: one call for many, without Python's lock. The wheel's build makes
 * libkdump.so of the C files here (build.py), library.py opens it, compiled.py calls it.
 */
#include <errno.h>
#include <sys/types.h>
#include <unistd.h>

#include "api.h"
#include "bytes.h"
#include "file.h"

/* CRC-32 of the sources, as library.py computes it: a library of others is refused. */
API const uint32_t kdump_sources = KDUMP_SOURCES;

enum { LINE = 64 }; /* bytes: pages are looked at by lines, and are a multiple of them */

/* As lzo1x_1_compress has it; snappy_compress takes the same but for `work`. Both return 0 if all is well. */
typedef int (*compressor)(const void *source, size_t size, void *target, size_t *length, void *work);

/* What kdump_zstd takes as `work`: ZSTD_compressCCtx, its context and level. ZSTD_isError: the result is above -120. */
struct zstd {
	size_t (*compress)(void *context, void *target, size_t room, const void *source, size_t size, int level);
	void *context;
	int level;
};

/* ZSTD_compressCCtx as a `compressor`; `length` is the room on entry. */
API int kdump_zstd(const void *source, size_t size, void *target, size_t *length, void *work)
{
	const struct zstd *zstd = work;

	*length = zstd->compress(zstd->context, target, *length, source, size, zstd->level);
	return *length > (size_t)-120;
}

/*
 * Whether no codec will make a page smaller: its bytes are as evenly spread as chance has it, and words of four bytes do
 * not come twice. Every fourth line of 64 bytes is counted; bytes that are uneven within the bound are worth some 60
 * bytes of a page of 4096, less than zstd takes the trouble for and than zlib's table takes. One word in eight bytes is
 * stored and one at every fifth byte looked up: any one repeat may pass, but not as many as it takes to save something.
 */
static int is_noise(const unsigned char *page, size_t size)
{
	enum { GLANCE = 256, DISTINCT = 140, CHI_SQUARE = 350 }; /* chance: 162 +- 6, 255 +- 23 */
	enum { STORED = 8, SOUGHT = 5, BITS = 11 };
	unsigned char seen[256] = { 0 };
	uint16_t counts[4][256], places[1 << BITS];
	uint64_t squares = 0, counted = size / 4;
	unsigned distinct = 0;

	for (size_t i = 0; i < GLANCE; i++)
		seen[page[i]] = 1;
	for (size_t i = 0; i < 256; i++)
		distinct += seen[i];
	if (distinct < DISTINCT)	/* most pages that are no noise end here */
		return 0;
	memset(counts, 0, sizeof(counts));
	memset(places, 0, sizeof(places));
	for (size_t i = 0; i < size; i += i % LINE == LINE - 8 ? 3 * LINE + 8 : 8) {
		uint64_t word;

		memcpy(&word, page + i, 8);
		for (int lane = 0; lane < 4; lane++, word >>= 16) {
			counts[lane][word & 0xff]++;
			counts[lane][word >> 8 & 0xff]++;
		}
	}
	for (size_t i = 0; i < 256; i++) {
		uint32_t count = (uint32_t)counts[0][i] + counts[1][i] + counts[2][i] + counts[3][i];

		squares += count * count;
	}
	if (squares * 256 > counted * (counted + CHI_SQUARE))
		return 0;
	for (size_t i = 0; i < size; i += STORED)
		places[word_at(page + i) * 2654435761u >> (32 - BITS)] = (uint16_t)(i / STORED);
	for (size_t i = 0; i + 4 <= size; i += SOUGHT) {
		uint32_t word = word_at(page + i);
		size_t place = (size_t)places[word * 2654435761u >> (32 - BITS)] * STORED;

		if (word_at(page + place) == word && place != i) /* an empty place: the first word, which is as good */
			return 0;
	}
	return 1;
}

/* Whether a page (of whole lines) holds nothing but zeros: its first words settle it, if it does not. */
static int is_zero(const unsigned char *page, size_t size)
{
	uint64_t words[8], any = 0;

	for (size_t at = 0; at < size && !any; at += sizeof(words)) {
		memcpy(words, page + at, sizeof(words));
		for (int word = 0; word < 8; word++)
			any |= words[word];
	}
	return !any;
}

/* How pages are packed: see kdump_pack. */
struct packing {
	compressor compress;
	void *work;
	size_t page, room;
	int skip_noise, drop_zeros;
};

/* Packs one page to `target`; its size, or -1. If it is the page's, the page is stored as it is, and `target` is nothing. */
static long pack(const struct packing *how, const unsigned char *source, unsigned char *target)
{
	size_t length = how->room;

	if (how->drop_zeros && is_zero(source, how->page))
		return 0;
	if (how->skip_noise && is_noise(source, how->page))
		return (long)how->page;
	if (how->compress(source, how->page, target, &length, how->work))
		return -1;
	return (long)(length < how->page ? length : how->page);
}

/*
 * Compresses `count` pages of `page` bytes, each by itself and one behind the other, by a function of a C library. `room`
 * is what a page may take at worst: `target` must have count * page + room bytes. A page that does not shrink is copied
 * as it is; with `skip_noise`, one that is noise too, untried; with `drop_zeros` one of zeros is left out and its size 0.
 * Each page's size goes to `sizes`. Returns their sum, or -1 if the library refused a page, or pages are no multiple of LINE.
 */
API long kdump_pack(const struct packing *how, const unsigned char *pages, size_t count, unsigned char *target, unsigned *sizes)
{
	unsigned char *at = target;

	if (how->page % LINE)
		return -1;
	for (size_t i = 0; i < count; i++, pages += how->page) {
		long size;

		if (i + 1 < count)
			for (size_t line = 0; line < how->page; line += LINE)
				__builtin_prefetch(pages + how->page + line);
		size = pack(how, pages, at);
		if (size < 0)
			return -1;
		if ((size_t)size == how->page)
			memcpy(at, pages, how->page);
		sizes[i] = (unsigned)size;
		at += size;
	}
	return at - target;
}

/*
 * The same of pages that are in a file at `places`. Up to `batch` at a time are read to where they go if they do not shrink:
 * most of those need not be copied, and all are packed while they are in the processor's cache. A page is packed behind
 * them, where `target` has room for it. Returns -2 if not all of them can be read.
 */
API long kdump_pack_file(const struct packing *how, int file, const int64_t *places, size_t count, size_t batch,
		     unsigned char *target, unsigned *sizes)
{
	unsigned char *at = target, *packed = target + count * how->page;

	if (how->page % LINE)
		return -1;
	for (size_t i = 0, end; i < count; i = end) {
		unsigned char *source = at;

		end = i + in_a_row(places + i, count - i, batch, how->page);
		if (read_all(file, source, (end - i) * how->page, places[i]))
			return -2;
		for (size_t each = i; each < end; each++, source += how->page) {
			long size = pack(how, source, packed);

			if (size < 0)
				return -1;
			if ((size_t)size < how->page)
				memcpy(at, packed, (size_t)size);
			else if (at != source)
				memmove(at, source, how->page);
			sizes[each] = (unsigned)size;
			at += size;
		}
	}
	return at - target;
}

/* Writes all of `data` at `offset`, at most `piece` bytes in a call. Returns 0 or the error's number. */
API int kdump_write(int file, const unsigned char *data, size_t size, int64_t offset, size_t piece)
{
	for (size_t done = 0; done < size;) {
		size_t rest = size - done;
		ssize_t some = pwrite(file, data + done, rest < piece ? rest : piece, offset + (int64_t)done);

		if (some >= 0)
			done += (size_t)some;
		else if (errno != EINTR)
			return errno;
	}
	return 0;
}

/* Sets zero[i] to whether the i-th of `count` pages of `page` bytes is_zero. */
API void kdump_zeros(const unsigned char *pages, size_t page, size_t count, unsigned char *zero)
{
	for (size_t i = 0; i < count; i++)
		zero[i] = (unsigned char)is_zero(pages + i * page, page);
}

/*
 * Where each of `count` records of kallsyms_names begins, and where the last one ends: a length, of two bytes where `wide`
 * and the first is 128 or more, and so many bytes. Stops at the end of `raw`. Returns how many places were written.
 */
API size_t kdump_names(const unsigned char *raw, size_t size, size_t count, int wide, int64_t *places)
{
	size_t at = 0, i = 0;

	for (; i < count && at < size; i++) {
		size_t length = raw[at];

		places[i] = (int64_t)at;
		if (wide && length & 0x80)
			length += ((at + 1 < size ? (size_t)raw[at + 1] : 0) << 7) - 0x80 + 1;
		at += length + 1;
	}
	places[i] = (int64_t)at;
	return i + 1;
}

/*
 * The first eight bytes of each name behind the letter of its type, as a number, zeros behind a shorter one. Names are
 * tokens raw[begins[i]] to raw[ends[i] - 1]; `pieces` has for each token as many of its bytes as matter, in 16, and
 * `sizes` how many these are.
 */
API void kdump_heads(const unsigned char *raw, const int64_t *begins, const int64_t *ends, size_t count,
		 const unsigned char *pieces, const unsigned char *sizes, uint64_t *heads)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t head = 0;
		unsigned filled = 0; /* the letter is one */

		for (int64_t at = begins[i]; at < ends[i] && filled < 9; at++) {
			const unsigned char *piece = pieces + raw[at] * 16;

			for (unsigned byte = 0; byte < sizes[raw[at]] && filled < 9; byte++, filled++)
				if (filled)
					head |= (uint64_t)piece[byte] << 8 * (filled - 1);
		}
		heads[i] = head;
	}
}

/*
 * Where each BTF type begins, in words, and where the last one ends. Its length follows from kind and number of elements
 * in its second word: fixed[kind] + each[kind] * number; 0 stands for a kind that cannot be. A record that cannot be, or
 * has less than three words, ends it, and is the last place then. Returns how many places were written.
 */
API size_t kdump_types(const uint32_t *words, size_t size, const int64_t *fixed, const int64_t *each, int64_t *places)
{
	size_t at = 0, count = 0;

	while (at < size) {
		uint32_t info;
		size_t length;

		places[count++] = (int64_t)at;
		if (at + 2 >= size)
			return count;
		info = words[at + 1];
		length = (size_t)(fixed[info >> 24 & 0x7f] + each[info >> 24 & 0x7f] * (info & 0xffffff));
		if (!length)
			return count;
		at += length;
	}
	places[count++] = (int64_t)at;
	return count;
}

/* What purgatory.S compares (see there), of `count` words. */
API uint64_t kdump_checksum(const unsigned char *data, size_t count)
{
	uint64_t sum = 0, step = 0, word;

	for (size_t i = 0; i < count; i++, data += 8) {
		memcpy(&word, data, 8);
		word += step += 0x9e3779b97f4a7c15u;
		word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
		word = (word ^ word >> 27) * 0x94d049bb133111ebu;
		sum += word ^ word >> 31;
	}
	return sum;
}

/* How one page is unpacked, by the signatures of the codecs' libraries. */
struct unpacking {
	int codec;		/* as in a descriptor: 0 raw, 1 zlib, 2 LZO, 4 snappy, 32 zstd */
	void *function;		/* uncompress, lzo1x_decompress_safe, snappy_uncompress, ZSTD_decompressDCtx */
	void *context;		/* zstd's */
	size_t page;
};

/* Whether `size` bytes are a page that unpacks to exactly `target`. */
static int unpack(const struct unpacking *how, const unsigned char *source, size_t size, unsigned char *target)
{
	size_t length = how->page;
	unsigned long zlib_length = how->page;

	switch (how->codec) {
	case 0:
		if (size != how->page)
			return 0;
		memcpy(target, source, size);
		return 1;
	case 1:
		return !((int (*)(void *, unsigned long *, const void *, unsigned long))how->function)(
			       target, &zlib_length, source, size) && zlib_length == how->page;
	case 2:
		return !((int (*)(const void *, size_t, void *, size_t *, void *))how->function)(
			       source, size, target, &length, NULL) && length == how->page;
	case 4:
		return !((int (*)(const void *, size_t, void *, size_t *))how->function)(
			       source, size, target, &length) && length == how->page;
	case 32:
		return ((size_t (*)(void *, void *, size_t, const void *, size_t))how->function)(
			       how->context, target, how->page, source, size) == how->page;
	}
	return 0;
}

/* Unpacks data[offsets[i]] of sizes[i] bytes to pages[rows[i]] and says in done[i] whether it is a whole page now. */
API void kdump_unpack(const struct unpacking *how, const unsigned char *data, const int64_t *offsets, const int64_t *sizes,
		  const int64_t *rows, size_t count, unsigned char *pages, unsigned char *done)
{
	for (size_t i = 0; i < count; i++)
		done[i] = (unsigned char)unpack(how, data + offsets[i], (size_t)sizes[i],
						pages + (size_t)rows[i] * how->page);
}

/*
 * The same of pieces that are in a file, by rising offsets. They are read to `buffer`, which has room for `room` bytes (a
 * page or more), as many together as fit. A piece that cannot be read is not done.
 */
API void kdump_unpack_file(const struct unpacking *how, int file, const int64_t *offsets, const int64_t *sizes,
		       const int64_t *rows, size_t count, unsigned char *buffer, size_t room, unsigned char *pages,
		       unsigned char *done)
{
	int64_t start = 0, end = 0;

	for (size_t i = 0; i < count; i++) {
		int64_t after = offsets[i] + sizes[i];

		done[i] = 0;
		if (sizes[i] < 0 || (size_t)sizes[i] > room)
			continue;
		if (offsets[i] < start || after > end) {
			int64_t wanted = after;

			/* On as far as there are pieces close behind: what lies between is cheaper read than sought. */
			for (size_t next = i + 1; next < count; next++) {
				int64_t behind = offsets[next] + sizes[next];

				if (offsets[next] - wanted > 4096 || behind - offsets[i] > (int64_t)room)
					break;
				if (behind > wanted)
					wanted = behind;
			}
			start = offsets[i];
			end = wanted;
			if (read_all(file, buffer, (size_t)(end - start), start)) {
				end = start;
				continue;
			}
		}
		done[i] = (unsigned char)unpack(how, buffer + (offsets[i] - start), (size_t)sizes[i],
						pages + (size_t)rows[i] * how->page);
	}
}
