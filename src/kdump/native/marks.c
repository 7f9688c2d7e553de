/* What struct pages tell, and what becomes of the pages: see interface.py; plain.py does the same. */
#include "api.h"
#include "bytes.h"

enum { TYPES = 5, TAIL = 1, ANONYMOUS = 2, HEAD = 1 << 6 };
#define LOWEST_MASK 0xffffffff00000000u

/* Sizes and offsets in bytes. */
struct marking {
	size_t page, flags, mapping, mapcount, head;
	const uint16_t *of_flags; /* marks of each value of each byte of the flags that has any, beginning with the lowest */
	size_t flag_bytes;
	uint32_t type_mask, lowest, span, types[TYPES]; /* page types; all lie in lowest ... lowest + span */
	uint32_t of_types[TYPES];
	const unsigned char *classes; /* of each combination of marks */
};

/* Sets the marks and the class of each of `count` struct pages; returns all marks that there are. */
API unsigned kdump_marks(const struct marking *how, const unsigned char *pages, size_t count, uint16_t *marks,
		     unsigned char *classes)
{
	unsigned seen = 0;

	for (size_t i = 0; i < count; i++, pages += how->page) {
		unsigned found = (pages[how->head] & 1) * TAIL | (pages[how->mapping] & 1) * ANONYMOUS;
		uint32_t type = word_at(pages + how->mapcount) & how->type_mask;

		for (size_t byte = 0; byte < how->flag_bytes; byte++)
			found |= how->of_flags[byte << 8 | pages[how->flags + byte]];
		if (type - how->lowest <= how->span)
			for (size_t each = 0; each < TYPES; each++)
				if (type == how->types[each])
					found |= how->of_types[each];
		marks[i] = (uint16_t)found;
		classes[i] = how->classes[found];
		seen |= found;
	}
	return seen;
}

/*
 * Gives tails, of `count` struct pages that lie at `virtual`, the class of the head that they point to: one of these, or
 * the one at `before`. Returns how many of them point to none, and sets their classes to 0.
 */
API size_t kdump_tails(const struct marking *how, const unsigned char *pages, size_t count, uint64_t virtual, uint64_t before,
		   unsigned char class_before, const uint16_t *marks, unsigned char *classes)
{
	uint64_t last = before; /* the head of the tail before, and its class */
	unsigned char class = class_before;
	size_t lost = 0;

	for (size_t i = 0; i < count; i++) {
		uint64_t head, place;

		if (!(marks[i] & TAIL))
			continue;
		memcpy(&head, pages + i * how->page + how->head, 8);
		if (head >= LOWEST_MASK)
			head &= virtual + i * how->page;
		head &= ~(uint64_t)1;
		if (head != last) {
			place = (head - virtual) / how->page;
			if (head == before) {
				class = class_before;
			} else if (place < i && (marks[place] & (TAIL | HEAD)) == HEAD) {
				class = classes[place];
			} else {
				classes[i] = 0;
				lost++;
				continue;
			}
			last = head;
		}
		classes[i] = class;
	}
	return lost;
}

/*
 * Of `count` pages: how many there are of each class is added to `counts`; bits 0 and 1 of what `fates` has for its class
 * go to `kept` and `first`, if the page is `held`.
 */
API void kdump_fates(const unsigned char *classes, const unsigned char *held, size_t count, const unsigned char *fates,
		 unsigned char *kept, unsigned char *first, int64_t *counts)
{
	uint32_t several[4][256] = { { 0 } }; /* neighbours are of one class: one counter would wait for itself */

	for (size_t i = 0; i < count; i++) {
		unsigned fate = fates[classes[i]] & (held[i] ? 3 : 0);

		several[i & 3][classes[i]]++;
		kept[i] = fate & 1;
		first[i] = (unsigned char)(fate >> 1);
	}
	for (size_t class = 0; class < 256; class++)
		for (size_t each = 0; each < 4; each++)
			counts[class] += several[each][class];
}
