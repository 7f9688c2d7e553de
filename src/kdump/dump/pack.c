/*
 * Compress the pages of a batch, each by itself and one behind the other, by a function of a C library: one call
 * for a batch, without Python's lock. The wheel's build makes pack.so of it where there is a C compiler; without it
 * kdump/dump/clibs.py does the same, page by page.
 */
#include <stddef.h>
#include <string.h>

/* As lzo1x_1_compress has it; snappy_compress takes the same but for `work`. Both return 0 if all is well. */
typedef int (*compressor)(const void *source, size_t size, void *target, size_t *length, void *work);

/*
 * Packs pages[rows[0 .. count - 1]] of `page` bytes each. `room` is what a page may take at worst: `target` must have
 * count * page + room bytes. A page that does not shrink is copied as it is. Each page's size goes to `sizes`.
 * Returns the sum of the sizes, or -1 if the library refused a page.
 */
long kdump_pack(compressor compress, void *work, const unsigned char *pages, size_t page, const long *rows,
		size_t count, size_t room, unsigned char *target, unsigned *sizes)
{
	unsigned char *at = target;

	for (size_t i = 0; i < count; i++) {
		const unsigned char *source = pages + (size_t)rows[i] * page;
		size_t length = room;

		if (compress(source, page, at, &length, work))
			return -1;
		if (length >= page) {
			memcpy(at, source, page);
			length = page;
		}
		sizes[i] = (unsigned)length;
		at += length;
	}
	return at - target;
}
