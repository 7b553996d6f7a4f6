/* Turns a CSV table into a JSON array of objects, one a row, named by the first row. A handler in the byte
 * interface: no libc, no WASI; the host asks for room with stockade_alloc, puts the input there, calls handle and
 * reads the reply. The interface is described in docs/guests.md.
 *
 * CSV is RFC 4180's: commas, optional double quotes (doubled to stand for themselves), CR LF or LF. Strict: every
 * row has as many fields as the first, names are neither empty nor repeated, the text is UTF-8. What breaks that is
 * an error that names the line.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PAGE_BYTES = 1 << 16,
    COLUMNS_MAX = 256,
    MESSAGE_BYTES_MAX = 128,
};

/* In the length of a reply: it is not the result but why there is none. */
static const uint32_t FAILED = 1u << 31;

extern unsigned char __heap_base; /* where the linker's data ends */

static uintptr_t heap_at;

/* Memory is never given back: an instance lives for one call. 0 when there is no more. */
static void *allocate(size_t bytes)
{
    if (heap_at == 0)
        heap_at = (uintptr_t)&__heap_base;
    uintptr_t start = (heap_at + 7) & ~(uintptr_t)7;
    uintptr_t room = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE_BYTES;
    if (bytes > UINTPTR_MAX - PAGE_BYTES - start)
        return NULL;
    if (start + bytes > room) {
        size_t pages = (start + bytes - room + PAGE_BYTES - 1) / PAGE_BYTES;
        if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1)
            return NULL;
    }
    heap_at = start + bytes;
    return (void *)start;
}

__attribute__((export_name("stockade_alloc"))) int32_t stockade_alloc(int32_t bytes)
{
    return bytes < 0 ? 0 : (int32_t)(uintptr_t)allocate((size_t)bytes);
}

struct text {
    const unsigned char *at;
    size_t bytes;
};

struct reader {
    const unsigned char *at, *end;
    uint32_t line;
    struct text field; /* the last one read, quotes removed */
    bool row_ended;
    const char *error;
};

/* Grows by doubling; `full` once memory has run out, and everything after is dropped. */
struct writer {
    unsigned char *start;
    size_t bytes, room;
    bool full;
};

static void put(struct writer *writer, unsigned char byte)
{
    if (writer->bytes == writer->room && !writer->full) {
        size_t room = writer->room == 0 ? PAGE_BYTES : writer->room * 2;
        unsigned char *start = allocate(room);
        writer->full = start == NULL;
        if (writer->full)
            return;
        __builtin_memcpy(start, writer->start, writer->bytes);
        writer->start = start;
        writer->room = room;
    }
    if (!writer->full)
        writer->start[writer->bytes++] = byte;
}

static void put_text(struct writer *writer, const char *text)
{
    while (*text != '\0')
        put(writer, (unsigned char)*text++);
}

static void put_string(struct writer *writer, struct text text)
{
    static const char hex[] = "0123456789abcdef";
    put(writer, '"');
    for (size_t i = 0; i < text.bytes; i++) {
        unsigned char byte = text.at[i];
        if (byte == '"' || byte == '\\')
            put(writer, '\\');
        if (byte == '\n') {
            put_text(writer, "\\n");
        } else if (byte < 0x20) {
            put_text(writer, "\\u00");
            put(writer, (unsigned char)hex[byte >> 4]);
            put(writer, (unsigned char)hex[byte & 15]);
        } else {
            put(writer, byte);
        }
    }
    put(writer, '"');
}

static bool is_utf8(struct text text)
{
    for (size_t i = 0; i < text.bytes;) {
        unsigned char first = text.at[i];
        size_t bytes = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
        if (bytes > text.bytes - i || (bytes > 1 && (first < 0xc2 || first > 0xf4)))
            return false;
        for (size_t j = 1; j < bytes; j++)
            if ((text.at[i + j] & 0xc0) != 0x80)
                return false;
        unsigned char second = bytes > 1 ? text.at[i + 1] : 0;
        if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
            (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f))
            return false;
        i += bytes;
    }
    return true;
}

static bool at_line_end(const struct reader *reader)
{
    return reader->at[0] == '\n' ||
           (reader->at[0] == '\r' && reader->end - reader->at > 1 && reader->at[1] == '\n');
}

/* What stands between two quotes, with each doubled quote made one. */
static void read_quoted(struct reader *reader)
{
    unsigned char *out = allocate((size_t)(reader->end - reader->at));
    if (out == NULL) {
        reader->error = "out of memory";
        return;
    }
    reader->field = (struct text){out, 0};
    for (reader->at++; reader->at < reader->end; reader->at++) {
        if (*reader->at == '"') {
            reader->at++;
            if (reader->at == reader->end || *reader->at != '"') {
                heap_at = (uintptr_t)(out + reader->field.bytes); /* the rest of the room was not needed */
                return;
            }
        }
        reader->line += *reader->at == '\n';
        out[reader->field.bytes++] = *reader->at;
    }
    reader->error = "a quote is not closed";
}

static void read_field(struct reader *reader)
{
    reader->row_ended = false;
    if (reader->at < reader->end && *reader->at == '"') {
        read_quoted(reader);
    } else {
        reader->field = (struct text){reader->at, 0};
        while (reader->at < reader->end && *reader->at != ',' && *reader->at != '"' && !at_line_end(reader)) {
            reader->at++;
            reader->field.bytes++;
        }
    }
    if (reader->error != NULL)
        return;
    if (!is_utf8(reader->field)) {
        reader->error = "the text is not UTF-8";
    } else if (reader->at == reader->end) {
        reader->row_ended = true;
    } else if (*reader->at == ',') {
        reader->at++;
    } else if (at_line_end(reader)) {
        reader->at += *reader->at == '\r' ? 2 : 1;
        reader->row_ended = true;
    } else {
        reader->error = "a quote stands inside a field";
    }
}

static bool same(struct text a, struct text b)
{
    if (a.bytes != b.bytes)
        return false;
    for (size_t i = 0; i < a.bytes; i++)
        if (a.at[i] != b.at[i])
            return false;
    return true;
}

static size_t read_names(struct reader *reader, struct text *names)
{
    size_t count = 0;
    do {
        read_field(reader);
        if (reader->error == NULL && count == COLUMNS_MAX)
            reader->error = "more than 256 columns";
        if (reader->error == NULL && reader->field.bytes == 0)
            reader->error = "a column has no name";
        for (size_t i = 0; reader->error == NULL && i < count; i++)
            if (same(names[i], reader->field))
                reader->error = "two columns have the same name";
        if (reader->error == NULL)
            names[count++] = reader->field;
    } while (reader->error == NULL && !reader->row_ended);
    return count;
}

static void convert_row(struct reader *reader, struct writer *writer, const struct text *names, size_t count)
{
    uint32_t line = reader->line;
    put_text(writer, "{");
    for (size_t i = 0; reader->error == NULL; i++) {
        read_field(reader);
        if (reader->error != NULL)
            break;
        if (i == count || (reader->row_ended && i + 1 < count)) {
            reader->line = line; /* where the row began, if a field had lines of its own */
            reader->error = i == count ? "more fields than columns" : "fewer fields than columns";
            break;
        }
        if (i > 0)
            put(writer, ',');
        put_string(writer, names[i]);
        put(writer, ':');
        put_string(writer, reader->field);
        if (reader->row_ended)
            break;
    }
    put(writer, '}');
}

static int64_t reply(const void *at, size_t bytes)
{
    return (int64_t)((uint64_t)(uintptr_t)at << 32 | (uint32_t)bytes);
}

static int64_t fail(uint32_t line, const char *error)
{
    static unsigned char message[MESSAGE_BYTES_MAX];
    struct writer writer = {.start = message, .room = sizeof message};
    unsigned char digits[10];
    size_t count = 0;
    put_text(&writer, "line ");
    do
        digits[count++] = (unsigned char)('0' + line % 10);
    while ((line /= 10) != 0);
    while (count > 0)
        put(&writer, digits[--count]);
    put_text(&writer, ": ");
    put_text(&writer, error);
    return reply(message, writer.bytes | FAILED);
}

__attribute__((export_name("handle"))) int64_t handle(int32_t at, int32_t bytes)
{
    static struct text names[COLUMNS_MAX];
    const unsigned char *input = (const unsigned char *)(uintptr_t)(uint32_t)at;
    struct reader reader = {.at = input, .end = input + (uint32_t)bytes, .line = 1};
    struct writer writer = {0};
    if (bytes == 0)
        return fail(1, "there is no first row to take the names from");
    size_t count = read_names(&reader, names);
    put_text(&writer, "[");
    for (bool first = true; reader.error == NULL && reader.at < reader.end; first = false) {
        reader.line++;
        put_text(&writer, first ? "\n" : ",\n");
        convert_row(&reader, &writer, names, count);
    }
    put_text(&writer, "\n]\n");
    if (reader.error == NULL && writer.full)
        reader.error = "out of memory";
    if (reader.error != NULL)
        return fail(reader.line, reader.error);
    return reply(writer.start, writer.bytes);
}
