/* Counts lines, words and bytes, and shows the most frequent words of a text.
 *
 *   wordfreq [-n TOP] [-m LETTERS] [FILE...]
 *
 * Without FILE it reads standard input. A word is a run of ASCII letters, digits, bytes above 127 (so that
 * UTF-8 words stay whole) and apostrophes between letters; ASCII letters count as lower case. Words of equal
 * count are shown in alphabetical order, so the same text always gives the same output.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORD_BYTES_MAX = 128,   /* a longer run is cut into words of this length */
    CHUNK_BYTES = 1 << 16,  /* read at once */
    TOP_MAX = 100000,
    TABLE_SLOTS_FIRST = 1 << 12,
};

struct word {
    char *text;
    uint32_t bytes;
    uint32_t hash;
    uint64_t count;
};

struct tally {
    struct word *slots; /* open addressing; a slot without text is free */
    size_t slot_count;  /* a power of two */
    size_t distinct;
    uint64_t words;
    uint64_t lines;
    uint64_t bytes;
    char pending[WORD_BYTES_MAX];
    size_t pending_bytes;
    bool apostrophe; /* one was read after a letter and belongs to the word only if a letter follows */
};

static void die(const char *what, const char *subject)
{
    fprintf(stderr, "wordfreq: %s: %s\n", subject, what);
    exit(1);
}

static void *allocate(size_t count, size_t bytes)
{
    void *memory = calloc(count, bytes);
    if (memory == NULL)
        die("out of memory", "table");
    return memory;
}

static uint32_t hash_of(const char *text, size_t bytes)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    return hash;
}

static struct word *slot_for(struct word *slots, size_t slot_count, const char *text, size_t bytes, uint32_t hash)
{
    size_t at = hash & (slot_count - 1);
    while (slots[at].text != NULL &&
           !(slots[at].hash == hash && slots[at].bytes == bytes && memcmp(slots[at].text, text, bytes) == 0))
        at = (at + 1) & (slot_count - 1);
    return &slots[at];
}

static void grow(struct tally *tally)
{
    size_t slot_count = tally->slot_count * 2;
    struct word *slots = allocate(slot_count, sizeof *slots);
    for (size_t i = 0; i < tally->slot_count; i++) {
        struct word *old = &tally->slots[i];
        if (old->text != NULL)
            *slot_for(slots, slot_count, old->text, old->bytes, old->hash) = *old;
    }
    free(tally->slots);
    tally->slots = slots;
    tally->slot_count = slot_count;
}

static void end_word(struct tally *tally)
{
    size_t bytes = tally->pending_bytes;
    tally->apostrophe = false;
    if (bytes == 0)
        return;
    uint32_t hash = hash_of(tally->pending, bytes);
    struct word *word = slot_for(tally->slots, tally->slot_count, tally->pending, bytes, hash);
    tally->words++;
    tally->pending_bytes = 0;
    if (word->text != NULL) {
        word->count++;
        return;
    }
    word->text = allocate(1, bytes);
    memcpy(word->text, tally->pending, bytes);
    word->bytes = (uint32_t)bytes;
    word->hash = hash;
    word->count = 1;
    if (++tally->distinct * 4 > tally->slot_count * 3)
        grow(tally);
}

static void add_letter(struct tally *tally, char letter)
{
    if (tally->pending_bytes == WORD_BYTES_MAX)
        end_word(tally);
    tally->pending[tally->pending_bytes++] = letter;
}

static void add_byte(struct tally *tally, unsigned char byte)
{
    tally->bytes++;
    if (byte == '\n')
        tally->lines++;
    if (byte >= 'A' && byte <= 'Z')
        byte += 'a' - 'A';
    bool letter = (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte >= 0x80;
    if (letter) {
        if (tally->apostrophe) {
            tally->apostrophe = false;
            add_letter(tally, '\'');
        }
        add_letter(tally, (char)byte);
    } else if (byte == '\'' && tally->pending_bytes > 0 && !tally->apostrophe) {
        tally->apostrophe = true;
    } else {
        end_word(tally);
    }
}

static void add_stream(struct tally *tally, FILE *stream, const char *name)
{
    static unsigned char chunk[CHUNK_BYTES];
    size_t bytes;
    while ((bytes = fread(chunk, 1, sizeof chunk, stream)) > 0)
        for (size_t i = 0; i < bytes; i++)
            add_byte(tally, chunk[i]);
    if (ferror(stream))
        die(strerror(errno), name);
    end_word(tally);
}

static int by_count_then_text(const void *left, const void *right)
{
    const struct word *a = left, *b = right;
    if (a->count != b->count)
        return a->count > b->count ? -1 : 1;
    uint32_t shorter = a->bytes < b->bytes ? a->bytes : b->bytes;
    int order = memcmp(a->text, b->text, shorter);
    return order != 0 ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static void report(const struct tally *tally, size_t top, size_t letters_min)
{
    struct word *words = allocate(tally->distinct + 1, sizeof *words);
    size_t kept = 0;
    for (size_t i = 0; i < tally->slot_count; i++)
        if (tally->slots[i].text != NULL && tally->slots[i].bytes >= letters_min)
            words[kept++] = tally->slots[i];
    qsort(words, kept, sizeof *words, by_count_then_text);

    printf("%llu lines, %llu words, %zu distinct, %llu bytes\n", (unsigned long long)tally->lines,
           (unsigned long long)tally->words, tally->distinct, (unsigned long long)tally->bytes);
    for (size_t i = 0; i < kept && i < top; i++)
        printf("%8llu %.*s\n", (unsigned long long)words[i].count, (int)words[i].bytes, words[i].text);
    free(words);
}

static size_t number(const char *flag, const char *text)
{
    char *end = NULL;
    unsigned long value = text == NULL ? 0 : strtoul(text, &end, 10);
    if (text == NULL || *text < '0' || *text > '9' || *end != '\0' || value > TOP_MAX)
        die("needs a number from 0 to 100000", flag);
    return value;
}

int main(int argc, char **argv)
{
    size_t top = 10, letters_min = 1;
    int at = 1;
    for (; at < argc && argv[at][0] == '-' && argv[at][1] != '\0'; at++) {
        if (strcmp(argv[at], "-n") == 0) {
            at++;
            top = number("-n", argv[at]);
        } else if (strcmp(argv[at], "-m") == 0) {
            at++;
            letters_min = number("-m", argv[at]);
        } else {
            fprintf(stderr, "usage: wordfreq [-n TOP] [-m LETTERS] [FILE...]\n");
            return 2;
        }
    }

    struct tally tally = {.slot_count = TABLE_SLOTS_FIRST};
    tally.slots = allocate(tally.slot_count, sizeof *tally.slots);
    if (at == argc)
        add_stream(&tally, stdin, "standard input");
    for (; at < argc; at++) {
        FILE *file = fopen(argv[at], "rb");
        if (file == NULL)
            die(strerror(errno), argv[at]);
        add_stream(&tally, file, argv[at]);
        fclose(file);
    }
    report(&tally, top, letters_min);
    if (fflush(stdout) != 0)
        die(strerror(errno), "standard output");
    return 0;
}
