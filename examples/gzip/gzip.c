/* Compresses standard input to standard output in the gzip format (RFC 1952), for any gunzip to read.
 *
 *   gzip < data > data.gz
 *
 * DEFLATE (RFC 1951) from the ground up: matches are found through hash chains over a 32 KiB window, with one
 * byte of lazy evaluation; tokens are coded in blocks with Huffman codes made for each block. The header holds
 * neither name nor time, so the same input always gives the same bytes. How well it went is said on stderr.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    INPUT_BYTES_MAX = 128 << 20,
    WINDOW_BYTES = 1 << 15,
    MATCH_MIN = 3,
    MATCH_MAX = 258,
    CHAIN_MAX = 64,       /* candidates looked at for one match */
    GOOD_MATCH = 64,      /* a match this long is taken without looking further */
    HASH_BITS = 15,
    BLOCK_TOKENS = 1 << 15,
    LITERALS = 286,       /* literal and length symbols */
    DISTANCES = 30,
    LENGTH_CODES = 19,    /* symbols of the code in which the other two codes are sent */
    END_OF_BLOCK = 256,
    CODE_BITS_MAX = 15,
    LENGTH_CODE_BITS_MAX = 7,
};

struct code {
    uint32_t count[LITERALS];
    uint8_t bits[LITERALS];
    uint16_t word[LITERALS]; /* bits reversed, as they are sent */
};

/* A literal when distance is 0, else a match. */
struct token {
    uint16_t length_or_literal;
    uint16_t distance;
};

static const uint16_t length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                         31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                         2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t distance_base[DISTANCES] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                                  33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                                  1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const uint8_t distance_extra[DISTANCES] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                                  6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

static uint64_t bit_buffer;
static unsigned bit_count;
static uint64_t output_bytes;

static void die(const char *what)
{
    fprintf(stderr, "gzip: %s\n", what);
    exit(1);
}

static void put_byte(unsigned byte)
{
    if (putchar((int)(byte & 0xff)) == EOF)
        die("cannot write the output");
    output_bytes++;
}

static void put_bits(uint32_t value, unsigned count)
{
    bit_buffer |= (uint64_t)value << bit_count;
    bit_count += count;
    for (; bit_count >= 8; bit_count -= 8, bit_buffer >>= 8)
        put_byte((unsigned)bit_buffer);
}

static void flush_bits(void)
{
    if (bit_count > 0)
        put_bits(0, 8 - bit_count);
}

static void put_u32(uint32_t value)
{
    for (int shift = 0; shift < 32; shift += 8)
        put_byte(value >> shift);
}

static uint32_t crc32(const uint8_t *data, size_t bytes)
{
    static uint32_t table[256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0xedb88320u : value >> 1;
        table[i] = value;
    }
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < bytes; i++)
        crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
    return ~crc;
}

struct leaf {
    uint32_t count;
    uint16_t symbol;
};

static int by_count(const void *left, const void *right)
{
    const struct leaf *a = left, *b = right;
    if (a->count != b->count)
        return a->count < b->count ? -1 : 1;
    return (int)a->symbol - (int)b->symbol;
}

/* How many leaves of a Huffman tree over sorted counts lie at each depth. */
static void depths(const struct leaf *leaves, int n, uint32_t *at_depth)
{
    static uint64_t weight[2 * LITERALS];
    static uint16_t parent[2 * LITERALS];
    static uint16_t depth[2 * LITERALS];
    int leaf = 0, inner = n, made = n;
    for (int i = 0; i < n; i++)
        weight[i] = leaves[i].count;
    for (; made < 2 * n - 1; made++) {
        weight[made] = 0;
        for (int child = 0; child < 2; child++) {
            int lightest = leaf < n && (inner >= made || weight[leaf] <= weight[inner]) ? leaf++ : inner++;
            weight[made] += weight[lightest];
            parent[lightest] = (uint16_t)made;
        }
    }
    depth[made - 1] = 0;
    for (int i = made - 2; i >= 0; i--) {
        depth[i] = depth[parent[i]] + 1;
        if (i < n)
            at_depth[depth[i]]++;
    }
}

/* Moves leaves below the deepest level allowed up to it, then makes room by pushing others down. */
static void limit_depths(uint32_t *at_depth, int deepest, int bits_max)
{
    uint32_t used = 0; /* of the 2^bits_max words of the longest length */
    for (int depth = bits_max + 1; depth <= deepest; depth++) {
        at_depth[bits_max] += at_depth[depth];
        at_depth[depth] = 0;
    }
    for (int depth = 1; depth <= bits_max; depth++)
        used += at_depth[depth] << (bits_max - depth);
    while (used > 1u << bits_max) {
        int depth = bits_max - 1;
        while (at_depth[depth] == 0)
            depth--;
        at_depth[depth]--;
        at_depth[depth + 1] += 2;
        at_depth[bits_max]--;
        used--;
    }
}

/* Gives every counted symbol a length, and every length its words in the order RFC 1951 asks for. */
static void make_code(struct code *code, int symbols, int bits_max)
{
    struct leaf leaves[LITERALS];
    uint32_t at_depth[LITERALS + 1] = {0};
    int n = 0;
    memset(code->bits, 0, sizeof code->bits);
    for (int symbol = 0; symbol < symbols; symbol++)
        if (code->count[symbol] > 0)
            leaves[n++] = (struct leaf){code->count[symbol], (uint16_t)symbol};
    if (n == 1) {
        code->bits[leaves[0].symbol] = 1;
    } else if (n > 1) {
        qsort(leaves, (size_t)n, sizeof *leaves, by_count);
        depths(leaves, n, at_depth);
        limit_depths(at_depth, n, bits_max);
        int next = 0;
        for (int bits = bits_max; bits > 0; bits--)
            for (uint32_t i = 0; i < at_depth[bits]; i++)
                code->bits[leaves[next++].symbol] = (uint8_t)bits;
    }
    uint32_t word = 0;
    for (int bits = 1; bits <= bits_max; bits++, word <<= 1)
        for (int symbol = 0; symbol < symbols; symbol++) {
            if (code->bits[symbol] != bits)
                continue;
            uint32_t reversed = 0;
            for (int bit = 0; bit < bits; bit++)
                reversed |= (word >> bit & 1) << (bits - 1 - bit);
            code->word[symbol] = (uint16_t)reversed;
            word++;
        }
}

static int length_symbol(unsigned length)
{
    int symbol = 28;
    while (length_base[symbol] > length)
        symbol--;
    return symbol;
}

static int distance_symbol(unsigned distance)
{
    int symbol = DISTANCES - 1;
    while (distance_base[symbol] > distance)
        symbol--;
    return symbol;
}

/* One symbol of the run-length form of both codes' lengths, and its extra bits. */
struct run {
    uint8_t symbol, extra, extra_bits;
};

static int run_lengths(const uint8_t *lengths, int n, struct run *runs)
{
    int made = 0;
    for (int at = 0; at < n;) {
        int same = 1;
        while (at + same < n && lengths[at + same] == lengths[at])
            same++;
        int taken = same;
        if (lengths[at] == 0 && same >= 11) {
            taken = same > 138 ? 138 : same;
            runs[made++] = (struct run){18, (uint8_t)(taken - 11), 7};
        } else if (lengths[at] == 0 && same >= 3) {
            runs[made++] = (struct run){17, (uint8_t)(taken - 3), 3};
        } else if (same >= 4) {
            taken = same > 7 ? 7 : same;
            runs[made++] = (struct run){lengths[at], 0, 0};
            runs[made++] = (struct run){16, (uint8_t)(taken - 4), 2};
        } else {
            taken = 1;
            runs[made++] = (struct run){lengths[at], 0, 0};
        }
        at += taken;
    }
    return made;
}

static int used_symbols(const struct code *code, int symbols, int least)
{
    while (symbols > least && code->bits[symbols - 1] == 0)
        symbols--;
    return symbols;
}

static void put_codes(const struct code *literals, const struct code *distances)
{
    static const uint8_t order[LENGTH_CODES] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    static struct code lengths_code;
    uint8_t lengths[LITERALS + DISTANCES];
    struct run runs[LITERALS + DISTANCES];
    int literal_count = used_symbols(literals, LITERALS, 257);
    int distance_count = used_symbols(distances, DISTANCES, 1);
    memcpy(lengths, literals->bits, (size_t)literal_count);
    memcpy(lengths + literal_count, distances->bits, (size_t)distance_count);
    int run_count = run_lengths(lengths, literal_count + distance_count, runs);

    memset(lengths_code.count, 0, sizeof lengths_code.count);
    for (int i = 0; i < run_count; i++)
        lengths_code.count[runs[i].symbol]++;
    make_code(&lengths_code, LENGTH_CODES, LENGTH_CODE_BITS_MAX);
    int sent = LENGTH_CODES;
    while (sent > 4 && lengths_code.bits[order[sent - 1]] == 0)
        sent--;

    put_bits((uint32_t)(literal_count - 257), 5);
    put_bits((uint32_t)(distance_count - 1), 5);
    put_bits((uint32_t)(sent - 4), 4);
    for (int i = 0; i < sent; i++)
        put_bits(lengths_code.bits[order[i]], 3);
    for (int i = 0; i < run_count; i++) {
        put_bits(lengths_code.word[runs[i].symbol], lengths_code.bits[runs[i].symbol]);
        put_bits(runs[i].extra, runs[i].extra_bits);
    }
}

static void put_block(const struct token *tokens, size_t count, bool last)
{
    static struct code literals, distances;
    memset(literals.count, 0, sizeof literals.count);
    memset(distances.count, 0, sizeof distances.count);
    literals.count[END_OF_BLOCK] = 1;
    for (size_t i = 0; i < count; i++) {
        if (tokens[i].distance == 0) {
            literals.count[tokens[i].length_or_literal]++;
        } else {
            literals.count[257 + length_symbol(tokens[i].length_or_literal)]++;
            distances.count[distance_symbol(tokens[i].distance)]++;
        }
    }
    make_code(&literals, LITERALS, CODE_BITS_MAX);
    make_code(&distances, DISTANCES, CODE_BITS_MAX);

    put_bits(last, 1);
    put_bits(2, 2); /* codes of its own */
    put_codes(&literals, &distances);
    for (size_t i = 0; i < count; i++) {
        unsigned value = tokens[i].length_or_literal;
        if (tokens[i].distance == 0) {
            put_bits(literals.word[value], literals.bits[value]);
            continue;
        }
        int length = length_symbol(value), distance = distance_symbol(tokens[i].distance);
        put_bits(literals.word[257 + length], literals.bits[257 + length]);
        put_bits(value - length_base[length], length_extra[length]);
        put_bits(distances.word[distance], distances.bits[distance]);
        put_bits((uint32_t)tokens[i].distance - distance_base[distance], distance_extra[distance]);
    }
    put_bits(literals.word[END_OF_BLOCK], literals.bits[END_OF_BLOCK]);
}

/* Positions are kept plus one, so that 0 means none. */
static uint32_t newest[1 << HASH_BITS];
static uint32_t older[WINDOW_BYTES];

static uint32_t hash_at(const uint8_t *at)
{
    return ((uint32_t)at[0] << 16 | (uint32_t)at[1] << 8 | at[2]) * 2654435761u >> (32 - HASH_BITS);
}

static void remember(const uint8_t *data, size_t bytes, size_t at)
{
    if (at + MATCH_MIN > bytes)
        return;
    uint32_t hash = hash_at(data + at);
    older[at % WINDOW_BYTES] = newest[hash];
    newest[hash] = (uint32_t)at + 1;
}

static struct token longest_match(const uint8_t *data, size_t bytes, size_t at)
{
    struct token best = {0, 0};
    size_t longest = bytes - at < MATCH_MAX ? bytes - at : MATCH_MAX;
    if (longest < MATCH_MIN)
        return best;
    uint32_t candidate = newest[hash_at(data + at)];
    for (int tries = 0; candidate != 0 && tries < CHAIN_MAX; tries++) {
        size_t from = candidate - 1;
        if (from >= at || at - from > WINDOW_BYTES - 1)
            break;
        size_t length = 0;
        while (length < longest && data[from + length] == data[at + length])
            length++;
        if (length >= MATCH_MIN && length > best.length_or_literal)
            best = (struct token){(uint16_t)length, (uint16_t)(at - from)};
        if (length >= GOOD_MATCH)
            break;
        candidate = older[from % WINDOW_BYTES];
    }
    return best;
}

static void deflate(const uint8_t *data, size_t bytes)
{
    static struct token tokens[BLOCK_TOKENS];
    size_t count = 0, at = 0;
    struct token match = {0, 0}; /* the match at `at`, if it is known already */
    bool known = false;
    while (at < bytes) {
        if (count == BLOCK_TOKENS) {
            put_block(tokens, count, false);
            count = 0;
        }
        if (!known)
            match = longest_match(data, bytes, at);
        remember(data, bytes, at);
        known = false;
        if (match.distance != 0 && match.length_or_literal < GOOD_MATCH && at + 1 < bytes) {
            struct token next = longest_match(data, bytes, at + 1);
            if (next.length_or_literal > match.length_or_literal) {
                tokens[count++] = (struct token){data[at++], 0};
                match = next;
                known = true;
                continue;
            }
        }
        if (match.distance == 0) {
            tokens[count++] = (struct token){data[at++], 0};
            continue;
        }
        tokens[count++] = match;
        for (size_t end = at++ + match.length_or_literal; at < end; at++)
            remember(data, bytes, at);
    }
    put_block(tokens, count, true);
    flush_bits();
}

int main(void)
{
    size_t room = 1 << 16, bytes = 0, got;
    uint8_t *data = malloc(room);
    while (data != NULL && (got = fread(data + bytes, 1, room - bytes, stdin)) > 0) {
        bytes += got;
        if (bytes > INPUT_BYTES_MAX)
            die("the input is larger than 128 MiB");
        if (bytes == room)
            data = realloc(data, room *= 2);
    }
    if (data == NULL)
        die("out of memory");
    if (ferror(stdin))
        die("cannot read the input");

    static const uint8_t header[10] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255};
    for (size_t i = 0; i < sizeof header; i++)
        put_byte(header[i]);
    deflate(data, bytes);
    put_u32(crc32(data, bytes));
    put_u32((uint32_t)bytes);
    if (fflush(stdout) != 0)
        die("cannot write the output");
    fprintf(stderr, "gzip: %zu bytes to %llu\n", bytes, (unsigned long long)output_bytes);
    return 0;
}
