/* Reading a file. */
#ifndef KDUMP_FILE_H
#define KDUMP_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

/* Reads `size` bytes at `offset`. Returns 0, or -1 if there are not so many or they cannot be read. */
static inline int read_all(int file, unsigned char *target, size_t size, int64_t offset)
{
	for (size_t got = 0; got < size;) {
		ssize_t some = pread(file, target + got, size - got, offset + (int64_t)got);

		if (some <= 0)
			return -1;
		got += (size_t)some;
	}
	return 0;
}

/* How many of the pages at places[0] to places[count - 1], `most` at the most, lie one behind the other. */
static inline size_t in_a_row(const int64_t *places, size_t count, size_t most, size_t page)
{
	size_t found = 1;

	while (found < count && found < most && places[found] == places[found - 1] + (int64_t)page)
		found++;
	return found;
}

#endif
