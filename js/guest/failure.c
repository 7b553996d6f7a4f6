/* From an exception to a reply that a person can use.
 *
 * Everything read here may be the script's own making: each property can be a getter that throws, each text anything.
 */
#include <stdio.h>
#include <string.h>

#include "engine.h"

static const char OUT_OF_MEMORY[] = "out of memory";
static const char NO_MESSAGE[] = "Invalid error message";
static const char STACK_OVERFLOW[] = "Maximum call stack size exceeded";
static const char PATTERN_OVERFLOW[] = "stack overflow";

static struct text text_of(const char *text)
{
    return (struct text){text, (uint32_t)strlen(text)};
}

void failure_say(struct reply *reply, enum ending ending, const char *name, const char *message)
{
    /* The message may be in the caller's frame. */
    static char copy[512];
    snprintf(copy, sizeof copy, "%s", message);
    reply->ending = ending;
    reply->value = text_of(name);
    reply->message = text_of(copy);
}

/* A value as text; NULL when that fails, and then nothing is pending. */
static const char *text_of_value(JSValue value, size_t *length)
{
    const char *text = NULL;
    if (JS_IsString(value))
        text = JS_ToCStringLen(context, length, value);
    if (!text)
        JS_FreeValue(context, JS_GetException(context));
    JS_FreeValue(context, value);
    return text;
}

/* A property as text, if it is one. Never freed: the host reads it. */
static struct text property(JSValueConst object, const char *name, const char *otherwise)
{
    JSValue value = JS_GetPropertyStr(context, object, name);
    if (JS_IsException(value))
        JS_FreeValue(context, JS_GetException(context));
    size_t length;
    const char *text = text_of_value(value, &length);
    return text ? (struct text){text, (uint32_t)length} : text_of(otherwise);
}

static struct text shown(JSValueConst value)
{
    size_t length;
    const char *text = text_of_value(JS_Call(context, ours.show, JS_UNDEFINED, 1, &value), &length);
    return text ? (struct text){text, (uint32_t)length} : text_of("a value that cannot be shown");
}

static bool ends_with(const struct text *text, const char *end)
{
    size_t length = strlen(end);
    return text->length >= length && memcmp(text->start + text->length - length, end, length) == 0;
}

static bool contains(const struct text *text, const char *part)
{
    return memmem(text->start, text->length, part, strlen(part)) != NULL;
}

/* Takes the next line off `rest`. */
static struct text next_line(struct text *rest)
{
    const char *end = memchr(rest->start, '\n', rest->length);
    uint32_t length = end ? (uint32_t)(end - rest->start) : rest->length;
    struct text line = {rest->start, length};
    uint32_t taken = end ? length + 1 : length;
    *rest = (struct text){rest->start + taken, rest->length - taken};
    return line;
}

/* Whether a frame is the script's: neither C code nor a script of ours. */
static bool is_users(const struct text *frame)
{
    return frame->length && !ends_with(frame, "(native)") && !ends_with(frame, "(missing)") &&
           !contains(frame, "stockade:");
}

/* Copies the script's own frames of a stack over it, and returns how long they are. */
static uint32_t keep_users_frames(char *stack, uint32_t length)
{
    struct text rest = {stack, length};
    uint32_t kept = 0;
    while (rest.length) {
        struct text frame = next_line(&rest);
        if (!is_users(&frame))
            continue;
        memmove(stack + kept, frame.start, frame.length);
        kept += frame.length;
        stack[kept++] = '\n';
    }
    return kept;
}

JSValue failure_frames(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    size_t length;
    const char *stack = JS_ToCStringLen(c, &length, argv[0]);
    if (!stack)
        return JS_EXCEPTION;
    char *copy = js_malloc(c, length + 1);
    JSValue frames = JS_EXCEPTION;
    if (copy) {
        memcpy(copy, stack, length);
        frames = JS_NewStringLen(c, copy, keep_users_frames(copy, length));
        js_free(c, copy);
    }
    JS_FreeCString(c, stack);
    return frames;
}

/* Reads the number that ends at `end`, and moves `end` in front of the colon before it. 0: there is none. */
static uint32_t number_before(const char *start, const char **end)
{
    uint64_t number = 0, weight = 1;
    const char *at = *end;
    while (at > start && at[-1] >= '0' && at[-1] <= '9' && weight < 1000000000) {
        number += (uint64_t)(*--at - '0') * weight;
        weight *= 10;
    }
    if (at == *end || at == start || at[-1] != ':')
        return 0;
    *end = at - 1;
    return (uint32_t)number;
}

/* The place of the innermost frame that is in `file`: "… (file:line:column)" or "… file:line:column". */
static void place(struct reply *reply, const struct text *file)
{
    struct text rest = reply->stack;
    while (rest.length) {
        struct text frame = next_line(&rest);
        const char *end = frame.start + frame.length;
        if (frame.length && end[-1] == ')')
            end--;
        uint32_t column = number_before(frame.start, &end);
        uint32_t line = column ? number_before(frame.start, &end) : 0;
        if (!line)
            continue;
        struct text before = {frame.start, (uint32_t)(end - frame.start)};
        if (before.length > file->length &&
            memcmp(end - file->length, file->start, file->length) == 0) {
            reply->line = line;
            reply->column = column;
            reply->file = *file;
            return;
        }
    }
}

static bool is(const struct text *text, const char *what)
{
    return text->length == strlen(what) && memcmp(text->start, what, text->length) == 0;
}

/* Fills in what an error object says of itself. */
static void describe_error(struct reply *reply, JSValueConst error)
{
    reply->value = property(error, "name", "Error");
    reply->message = property(error, "message", "");
    struct text stack = property(error, "stack", "");
    if (stack.length) {
        /* The text belongs to the engine and may be in use by the script: a copy is cut down. */
        char *copy = js_malloc_rt(runtime, stack.length + 1);
        if (copy) {
            memcpy(copy, stack.start, stack.length);
            reply->stack = (struct text){copy, keep_users_frames(copy, stack.length)};
        }
    }
}

/* An error, or what is made like one: a DOMException is none to the engine. */
static bool is_error(JSValueConst value)
{
    if (JS_IsError(value) || !JS_IsObject(value) || JS_IsProxy(value))
        return JS_IsError(value);
    JSValue stack = JS_GetPropertyStr(context, value, "stack");
    bool has_stack = JS_IsString(stack);
    if (JS_IsException(stack))
        JS_FreeValue(context, JS_GetException(context));
    JS_FreeValue(context, stack);
    return has_stack;
}

static enum ending ending_of(const struct reply *reply)
{
    if (is(&reply->value, "InternalError") && is(&reply->message, OUT_OF_MEMORY))
        return ENDED_OUT_OF_MEMORY;
    if (is(&reply->value, "RangeError") && is(&reply->message, STACK_OVERFLOW))
        return ENDED_STACK_OVERFLOW;
    /* What the parser of regular expressions says of the same. */
    if (is(&reply->value, "SyntaxError") && is(&reply->message, PATTERN_OVERFLOW))
        return ENDED_STACK_OVERFLOW;
    size_t length = strlen(IMPORT_REFUSED);
    if (import_refused && reply->message.length > length && memcmp(reply->message.start, IMPORT_REFUSED, length) == 0)
        return ENDED_IMPORT_REFUSED;
    return reply->ending;
}

void failure_describe(struct reply *reply, enum ending ending, const struct text *file)
{
    engine_release_reserve();
    JSValue error = JS_GetException(context);
    reply->ending = ending;
    if (is_error(error)) {
        describe_error(reply, error);
    } else if (host_memory_refused && !JS_IsObject(error)) {
        /* There was not even room for the error. */
        failure_say(reply, ENDED_OUT_OF_MEMORY, "InternalError", OUT_OF_MEMORY);
    } else {
        reply->value = text_of("Uncaught");
        reply->message = shown(error);
    }
    /* What the engine says where there was no room for the message either. */
    if (host_memory_refused && is(&reply->value, "InternalError") && is(&reply->message, NO_MESSAGE))
        reply->message = text_of(OUT_OF_MEMORY);
    if (file)
        place(reply, file);
    reply->ending = ending_of(reply);
    JS_FreeValue(context, error);
}
