/*
 * Pages as zlib streams (RFC 1950, RFC 1951), on a little-endian machine: each one block, with Huffman codes of its own.
 *
 * A library that compresses anything spends most of a page's time on what pays for long streams: windows, states, tables.
 * Here a page's repeats are looked for where its matches and literals begin, not in what matches cover: that takes less
 * time and makes smaller streams, as the few places that are remembered lie further apart. Nothing outlives a page, so the
 * same page becomes the same bytes. Figures are in docs/decisions/0030-dump-engine.md.
 */
#include "api.h"
#include "bytes.h"

enum {
	LITERALS = 286, END = 256, LENGTHS = 257,	/* symbols of literals, of the block's end, from there on of lengths */
	DISTANCES = 30, NO_DISTANCE = DISTANCES,	/* symbols of distances, and what stands for none */
	RUNS = 19, ZEROS = 17, MANY_ZEROS = 18,		/* symbols of the code that both codes' lengths are written in */
	CODE_LIMIT = 15, RUN_CODE_LIMIT = 7,		/* bits of a symbol's code */
	SHORTEST = 3, LONGEST = 258, WINDOW = 1 << 15,	/* bytes of a match, and how far back it may lie */
	NEAR = 1024,	/* how far back a match of three bytes is worth it */
	LONG = 32,	/* a match of so many bytes is not compared with another */
	LARGEST = 1 << 16,	/* bytes of a page */
};

/* How places in a page are remembered: by hashes of the three and the four bytes that begin there. */
enum { THREE_BITS = 10, FOUR_BITS = 11 };

/* What a page consists of. A token: symbol, 9 bits; a length's extra bits, 5; distance's symbol, 5; its extra bits, 13. */
struct content {
	uint16_t fours[1 << FOUR_BITS][2];	/* the last place, and the one before */
	uint16_t threes[1 << THREE_BITS];
	uint16_t literals[LITERALS], distances[DISTANCES];	/* how often each symbol occurs */
	unsigned count;
	uint32_t tokens[LARGEST + 1];
};

/* A code: the symbols that are used, in order, and the length of each. */
struct code {
	unsigned used, bits;	/* bits that all symbols take, with what follows them */
	uint16_t symbols[LITERALS];
	uint8_t lengths[LITERALS];
	uint32_t entries[LITERALS];	/* by symbol: its code in bits 0 to 15, length from 16, with extra bits from 24 on */
};

/* The lengths of both codes, written in the run-length code. */
struct table {
	unsigned count;
	uint16_t counts[RUNS + 3];	/* the last three are nobody's, see `gap` */
	uint8_t symbols[LITERALS + DISTANCES + 3], extras[LITERALS + DISTANCES + 4];
};

/* So many lengths of 0 in the run-length code: up to three symbols, and their extra bits. */
struct gap {
	uint8_t count, symbols[3], extras[4];
};

struct writer {
	uint64_t bits;
	unsigned filled;
	unsigned char *at;
};

/* Extra bits that follow a symbol. */
static uint8_t literal_extras[LITERALS], distance_extras[DISTANCES], run_extras[RUNS];

static uint8_t length_symbols[LONGEST - SHORTEST + 1], reversed[256];
static struct gap gaps[END + 1];

static struct gap make_gap(unsigned zeros)
{
	struct gap gap = { 0, { RUNS, RUNS + 1, RUNS + 2 }, { 0 } };

	while (zeros) {
		unsigned run = zeros > 138 ? 138 : zeros < 3 ? 1 : zeros;

		gap.symbols[gap.count] = run == 1 ? 0 : run < 11 ? ZEROS : MANY_ZEROS;
		gap.extras[gap.count++] = (uint8_t)(run == 1 ? 0 : run < 11 ? run - 3 : run - 11);
		zeros -= run;
	}
	return gap;
}

__attribute__((constructor)) static void prepare(void)
{
	for (unsigned symbol = 0, length = 0; symbol < 28; symbol++) {
		literal_extras[LENGTHS + symbol] = (uint8_t)(symbol < 8 ? 0 : symbol / 4 - 1);
		for (unsigned i = 0; i < 1u << literal_extras[LENGTHS + symbol]; i++)
			length_symbols[length++] = (uint8_t)symbol;
	}
	length_symbols[LONGEST - SHORTEST] = 28; /* has a symbol of its own */
	for (unsigned symbol = 4; symbol < DISTANCES; symbol++)
		distance_extras[symbol] = (uint8_t)(symbol / 2 - 1);
	run_extras[ZEROS] = 3;
	run_extras[MANY_ZEROS] = 7;
	for (unsigned i = 0; i < 256; i++)
		for (int bit = 0; bit < 8; bit++)
			reversed[i] |= (uint8_t)((i >> bit & 1) << (7 - bit));
	for (unsigned zeros = 0; zeros <= END; zeros++)
		gaps[zeros] = make_gap(zeros);
}

static inline uint32_t *add_literal(struct content *content, uint32_t *token, unsigned literal)
{
	content->literals[literal]++;
	*token = NO_DISTANCE << 14 | literal;
	return token + 1;
}

/* `distance`: less one. */
static inline uint32_t *add_match(struct content *content, uint32_t *token, unsigned length, unsigned distance)
{
	unsigned bits = 30u - (unsigned)__builtin_clz(distance | 2); /* extra ones */
	unsigned far = distance < 2 ? distance : 2 * bits + (distance >> bits);
	unsigned symbol = length_symbols[length - SHORTEST];
	unsigned extra = (length - SHORTEST) & ((1u << literal_extras[LENGTHS + symbol]) - 1);

	content->literals[LENGTHS + symbol]++;
	content->distances[far]++;
	*token = (distance & ((1u << bits) - 1)) << 19 | far << 14 | extra << 9 | (LENGTHS + symbol);
	return token + 1;
}

static void parse(struct content *content, const unsigned char *page, size_t size)
{
	const unsigned char *at = page, *end = page + size;
	uint32_t *token = content->tokens;

	memset(content, 0, offsetof(struct content, tokens));
	token = add_literal(content, token, *at++); /* so place 0 is an empty one, and as good as any to look at */
	while (at < end - 8) {
		uint32_t word = word_at(at);
		uint16_t *fours = content->fours[word * 2654435761u >> (32 - FOUR_BITS)];
		uint16_t *threes = &content->threes[(word << 8) * 2654435761u >> (32 - THREE_BITS)];
		const unsigned char *last = page + fours[0], *before = page + fours[1], *three = page + *threes, *from = last;
		unsigned length = 0;

		fours[1] = fours[0];
		fours[0] = *threes = (uint16_t)(at - page);
		if (word_at(last) == word)
			length = 4 + same(at + 4, last + 4, end);
		if (word_at(before) == word && length < LONG) {
			unsigned other = 4 + same(at + 4, before + 4, end);

			if (other > length) {
				length = other;
				from = before;
			}
		}
		if (!length && !((word_at(three) ^ word) << 8) && at - three <= NEAR) {
			length = 3;
			from = three;
		}
		if (!length || at - from > WINDOW) {
			token = add_literal(content, token, *at++);
			continue;
		}
		length = length > LONGEST ? LONGEST : length;
		token = add_match(content, token, length, (unsigned)(at - from - 1));
		at += length;
	}
	while (at < end)
		token = add_literal(content, token, *at++);
	token = add_literal(content, token, END);
	content->count = (unsigned)(token - content->tokens);
}

/* Entries of a canonical code that has ends[l] symbols of length l. */
static void enter(struct code *code, const unsigned *ends, const uint8_t *extras)
{
	uint16_t next[CODE_LIMIT + 1];
	unsigned first = 0;

	for (unsigned length = 1; length <= CODE_LIMIT; length++) {
		next[length] = (uint16_t)first;
		first = (first + ends[length]) << 1;
	}
	for (unsigned i = 0; i < code->used; i++) {
		unsigned symbol = code->symbols[i], length = code->lengths[i], bits = next[length]++;

		bits = ((unsigned)reversed[bits & 255] << 8 | reversed[bits >> 8]) >> (16 - length);
		code->entries[symbol] = bits | length << 16 | (length + extras[symbol]) << 24;
	}
}

/* The used symbols in the order of their counts: count << 16 | place among them. */
static void sort(const struct code *code, const uint16_t *counts, uint32_t *leaves)
{
	enum { BINS = 64 }; /* one for each count below, one for all others */
	uint16_t bins[BINS + 1] = { 0 };
	unsigned begin = 0;

	for (unsigned i = 0; i < code->used; i++) {
		unsigned count = counts[code->symbols[i]];

		bins[count < BINS ? count : BINS]++;
	}
	for (unsigned bin = 0; bin <= BINS; bin++) {
		unsigned size = bins[bin];

		bins[bin] = (uint16_t)begin;
		begin += size;
	}
	begin = bins[BINS];
	for (unsigned i = 0; i < code->used; i++) {
		uint32_t count = counts[code->symbols[i]];

		leaves[bins[count < BINS ? count : BINS]++] = count << 16 | i;
	}
	for (unsigned i = begin + 1; i < code->used; i++) {
		uint32_t leaf = leaves[i];
		unsigned place = i;

		for (; place > begin && leaves[place - 1] > leaf; place--)
			leaves[place] = leaves[place - 1];
		leaves[place] = leaf;
	}
}

/* A Huffman code of at most `limit` bits for symbols that occur so often; if only one does, it has one bit. */
static void make_code(struct code *code, const uint16_t *counts, const uint8_t *extras, unsigned size, unsigned limit)
{
	uint32_t leaves[LITERALS + 1], inner[LITERALS]; /* nodes of the tree, by weight; those of `inner` in bits 16 on, too */
	uint16_t parents[LITERALS];
	uint8_t depths[LITERALS];
	unsigned used = 0, leaf = 0, node = 0, ends[CODE_LIMIT + 1] = { 0 };

	for (unsigned i = 0; i < size; i++) {
		code->symbols[used] = (uint16_t)i;
		used += counts[i] != 0;
	}
	code->used = used;
	code->bits = 0;
	if (!used)
		return;
	sort(code, counts, leaves);
	leaves[used] = UINT32_MAX;
	inner[0] = UINT32_MAX;
	for (unsigned i = 0; i + 1 < used; i++) { /* the two lightest nodes become one; without branches, which nobody could foresee */
		uint32_t weight = 0;

		for (int child = 0; child < 2; child++) {
			uint32_t light = leaves[leaf] & ~0xffffu;
			unsigned is_leaf = light <= inner[node];

			weight += is_leaf ? light : inner[node];
			parents[node] = (uint16_t)i;
			leaf += is_leaf;
			node += 1 - is_leaf;
		}
		inner[i] = weight;
		inner[i + 1] = UINT32_MAX;
	}
	ends[1] = used > 1 ? 2 : 1; /* at the root; each inner node below takes one end, and has two */
	if (used > 1)
		depths[used - 2] = 0;
	for (unsigned i = used - 1; i-- > 1;) {
		unsigned depth = depths[parents[i - 1]] + 1u;

		depths[i - 1] = (uint8_t)depth;
		if (depth >= limit) /* too deep: an end that is higher up takes them */
			for (depth = limit - 1; !ends[depth]; depth--)
				;
		ends[depth]--;
		ends[depth + 1] += 2;
	}
	leaf = 0;
	for (unsigned length = limit; length; length--)
		for (unsigned i = 0; i < ends[length]; i++, leaf++) {
			unsigned place = leaves[leaf] & 0xffff;

			code->lengths[place] = (uint8_t)length;
			code->bits += (leaves[leaf] >> 16) * (length + extras[code->symbols[place]]);
		}
	enter(code, ends, extras);
}

/* Append a code's lengths to the table; returns how many there are, up to the last used symbol's. */
static unsigned tabulate(struct table *table, const struct code *code)
{
	unsigned next = 0, count = table->count;

	for (unsigned i = 0; i < code->used; i++) {
		const struct gap *gap = &gaps[code->symbols[i] - next];

		memcpy(table->symbols + count, gap->symbols, sizeof(gap->symbols));
		memcpy(table->extras + count, gap->extras, sizeof(gap->extras));
		for (size_t each = 0; each < sizeof(gap->symbols); each++)
			table->counts[gap->symbols[each]]++;
		count += gap->count;
		table->symbols[count] = code->lengths[i];
		table->extras[count++] = 0;
		table->counts[code->lengths[i]]++;
		next = code->symbols[i] + 1u;
	}
	if (!code->used) { /* there is always one: of no bits, where there are no distances */
		table->symbols[count] = table->extras[count] = 0;
		table->counts[0]++;
		count++;
		next = 1;
	}
	table->count = count;
	return next;
}

static inline void put(struct writer *writer, uint64_t bits, unsigned count)
{
	writer->bits |= bits << (writer->filled & 63);
	writer->filled += count;
}

/* Leaves less than eight bits behind: there is room for 56 more. Writes eight bytes, of which the rest is not yet meant. */
static inline void flush(struct writer *writer)
{
	memcpy(writer->at, &writer->bits, 8);
	writer->at += writer->filled >> 3;
	writer->bits >>= writer->filled & 56;
	writer->filled &= 7;
}

/* Literals and matches are written alike, as there is no telling which comes next: a literal's distance has no bits. */
static void put_tokens(struct writer *to, const struct content *content, const uint32_t *literals, const uint32_t *distances)
{
	struct writer writer = *to;

	for (unsigned i = 0; i < content->count; i++) {
		uint32_t token = content->tokens[i];
		uint64_t literal = literals[token & 511], distance = distances[token >> 14 & 31];
		uint64_t first = (literal & 0xffff) | (uint64_t)(token >> 9 & 31) << (literal >> 16 & 63);
		uint64_t second = (distance & 0xffff) | (uint64_t)(token >> 19) << (distance >> 16 & 63);

		put(&writer, first | second << (literal >> 24), (unsigned)(literal >> 24) + (unsigned)(distance >> 24));
		flush(&writer);
	}
	*to = writer;
}

static uint32_t adler32(const unsigned char *data, size_t size)
{
	enum { LANES = 16, ROWS = 16 }; /* sums stay below 2^16 */
	typedef uint8_t bytes __attribute__((vector_size(LANES)));
	typedef uint16_t numbers __attribute__((vector_size(2 * LANES)));
	uint32_t low = 1, high = 0;

	for (const unsigned char *end = data + size; data < end;) {
		numbers sums = { 0 }, totals = { 0 };
		uint32_t sum = 0, total = 0;

		for (int row = 0; row < ROWS; row++, data += LANES) {
			bytes line;

			memcpy(&line, data, LANES);
			sums += __builtin_convertvector(line, numbers);
			totals += sums;
		}
		for (int lane = 0; lane < LANES; lane++) {
			sum += sums[lane];
			total += LANES * (uint32_t)totals[lane] - (uint32_t)lane * sums[lane];
		}
		high = (high + LANES * ROWS * low + total) % 65521;
		low = (low + sum) % 65521;
	}
	return high << 16 | low;
}

/*
 * A page as a `compressor` (see loops.c): `size` is a multiple of 256, `work` a struct content, see kdump_deflate_work. If
 * the stream would be no smaller nothing is written, and `length` becomes `size`.
 */
API int kdump_deflate(const void *source, size_t size, void *target, size_t *length, void *work)
{
	static const uint8_t order[RUNS] = { 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15 };
	struct content *content = work;
	struct code literals, distances, runs;
	struct table table = { 0 };
	struct writer writer = { 0, 0, target };
	unsigned literal_count, distance_count, run_count = RUNS, bits, lengths[RUNS] = { 0 };
	uint32_t sum;

	if (size > LARGEST || !size || size % 256)
		return 1;
	parse(content, source, size);
	make_code(&literals, content->literals, literal_extras, LITERALS, CODE_LIMIT);
	make_code(&distances, content->distances, distance_extras, DISTANCES, CODE_LIMIT);
	distances.entries[NO_DISTANCE] = 0;
	literal_count = tabulate(&table, &literals);
	distance_count = tabulate(&table, &distances);
	make_code(&runs, table.counts, run_extras, RUNS, RUN_CODE_LIMIT);
	for (unsigned i = 0; i < runs.used; i++)
		lengths[runs.symbols[i]] = runs.lengths[i];
	while (run_count > 4 && !lengths[order[run_count - 1]])
		run_count--;

	bits = 16 + 3 + 5 + 5 + 4 + 3 * run_count + runs.bits + literals.bits + distances.bits;
	if ((bits + 7) / 8 + sizeof(sum) >= size) {
		*length = size;
		return 0;
	}

	put(&writer, 0x0178, 16); /* deflate, a window of 32 KiB, by the fastest algorithm */
	put(&writer, 1 | 2 << 1, 3); /* the last block, with codes of its own */
	put(&writer, literal_count - LENGTHS, 5);
	put(&writer, distance_count - 1, 5);
	put(&writer, run_count - 4, 4);
	flush(&writer);
	for (unsigned i = 0; i < run_count; i++) {
		put(&writer, lengths[order[i]], 3);
		flush(&writer);
	}
	for (unsigned i = 0; i < table.count; i++) {
		uint32_t run = runs.entries[table.symbols[i]];

		put(&writer, (run & 0xffff) | (uint64_t)table.extras[i] << (run >> 16 & 63), run >> 24);
		flush(&writer);
	}
	put_tokens(&writer, content, literals.entries, distances.entries);
	writer.filled += 7; /* to the end of a byte */
	flush(&writer);
	sum = __builtin_bswap32(adler32(source, size));
	memcpy(writer.at, &sum, sizeof(sum));
	*length = (size_t)(writer.at + sizeof(sum) - (unsigned char *)target);
	return 0;
}

/* Bytes that kdump_deflate takes as `work`. */
API size_t kdump_deflate_work(void)
{
	return sizeof(struct content);
}
