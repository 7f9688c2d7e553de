/* What tells secrets in memory, a page after the other: words of AES key schedules, and words that are known. */
#include "api.h"
#include "bytes.h"
#include "file.h"

static inline uint64_t long_at(const unsigned char *place)
{
	uint64_t word;

	memcpy(&word, place, sizeof(word));
	return word;
}

static inline int both(uint64_t words) /* neither half is 0: words of a schedule never are, but by chance */
{
	return (uint32_t)words && words >> 32;
}

/*
 * Places of lines of 64 bytes whose words 12 and 13, or 14 and 15, each are the one before it XOR the one a key's length
 * before it (4, 6 or 8 words), as most words of a schedule are (FIPS 197, 5.2); one in each four or six is not, so one of
 * the pairs shows it. All the words are in the line. `places` has room for all of the `count` lines. Returns how many.
 */
API size_t kdump_schedules(const unsigned char *data, size_t count, int64_t *places)
{
	size_t found = 0;

	for (size_t i = 0; i < count; i++) {
		const unsigned char *line = data + i * 64;
		uint64_t last[2] = { long_at(line + 48), long_at(line + 56) }, hit = 0;

		if (!(last[0] | last[1]))
			continue;
		for (int pair = 0; pair < 2; pair++) {
			uint64_t source = last[pair] ^ long_at(line + 44 + pair * 8);

			for (int back = 16; back <= 32; back += 8)
				hit |= source == long_at(line + 48 + pair * 8 - back) && both(source) && both(last[pair]);
		}
		if (hit)
			places[found++] = (int64_t)(i * 64);
	}
	return found;
}

/* A set of words, in order, and a bit for each value of the upper `bits` bits of their products with HASH. */
struct words {
	const uint64_t *sorted;
	size_t count;
	const unsigned char *table;
	unsigned bits;
};

static const uint64_t HASH = 0x9e3779b97f4a7c15u;

static int has(const struct words *set, uint64_t word)
{
	size_t low = 0, high = set->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (set->sorted[middle] < word)
			low = middle + 1;
		else
			high = middle;
	}
	return low < set->count && set->sorted[low] == word;
}

/* Places of those of `count` words of eight bytes that are in a set. `places` has room for all. Returns how many. */
API size_t kdump_words(const struct words *set, const unsigned char *data, size_t count, int64_t *places)
{
	unsigned shift = 64 - set->bits;
	size_t found = 0;

	for (size_t i = 0; i < count; i++) {
		uint64_t word = long_at(data + i * 8), index = word * HASH >> shift;

		if (set->table[index >> 3] >> (index & 7) & 1 && has(set, word))
			places[found++] = (int64_t)(i * 8);
	}
	return found;
}

/* Where pages of a file are searched, and where what is found goes; each list has room for `most`. */
struct search {
	const struct words *set; /* may be empty */
	int schedules;
	size_t page, batch; /* bytes; pages read at a time, to `room` */
	unsigned char *room;
	size_t most;
	int64_t *lines, *words; /* places, as if the pages lay one behind the other */
	uint64_t *values;       /* of the words */
	size_t line_count, word_count;
};

/*
 * Both searches in `count` pages that are in a file at `places`, while what was read is in the processor's cache. Returns 0;
 * -1 if more is found than there is room for, -2 if not all of them can be read.
 */
API int kdump_search_file(struct search *how, int file, const int64_t *places, size_t count)
{
	how->line_count = how->word_count = 0;
	for (size_t i = 0, end; i < count; i = end) {
		int64_t base = (int64_t)(i * how->page), *lines = how->lines + how->line_count;
		int64_t *words = how->words + how->word_count;
		size_t size, found;

		end = i + in_a_row(places + i, count - i, how->batch, how->page);
		size = (end - i) * how->page;
		if (how->line_count + size / 64 > how->most || how->word_count + size / 8 > how->most)
			return -1;
		if (read_all(file, how->room, size, places[i]))
			return -2;
		found = how->schedules ? kdump_schedules(how->room, size / 64, lines) : 0;
		for (size_t each = 0; each < found; each++)
			lines[each] += base;
		how->line_count += found;
		found = how->set->count ? kdump_words(how->set, how->room, size / 8, words) : 0;
		for (size_t each = 0; each < found; each++) {
			how->values[how->word_count + each] = long_at(how->room + words[each]);
			words[each] += base;
		}
		how->word_count += found;
	}
	return 0;
}
