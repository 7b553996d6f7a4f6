/* Runs an SQL script against an SQLite database.
 *
 *   sqlite [-header] [-readonly] [DATABASE]    < script.sql > rows
 *
 * Rows are printed one a line with `|` between columns; NULL is empty, a blob is hexadecimal after `x`. Without
 * DATABASE the database lives in memory. Statements run one after the other; the first error ends the script
 * with exit status 1 and says at which line of the script the statement began.
 *
 * This file only drives SQLite; SQLite itself is compiled from the source in a registry package.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite3.h"

enum { SCRIPT_BYTES_MAX = 64 << 20 };

static int fail(sqlite3 *database, const char *what, long line)
{
    fflush(stdout);
    if (line > 0)
        fprintf(stderr, "sqlite: line %ld: %s\n", line, database != NULL ? sqlite3_errmsg(database) : what);
    else
        fprintf(stderr, "sqlite: %s%s%s\n", what, database != NULL ? ": " : "",
                database != NULL ? sqlite3_errmsg(database) : "");
    return 1;
}

static char *read_script(void)
{
    size_t room = 1 << 16, bytes = 0, got;
    char *script = malloc(room);
    while (script != NULL && (got = fread(script + bytes, 1, room - bytes - 1, stdin)) > 0) {
        bytes += got;
        if (bytes > SCRIPT_BYTES_MAX) {
            free(script);
            return NULL;
        }
        if (bytes == room - 1)
            script = realloc(script, room *= 2);
    }
    if (script == NULL || ferror(stdin) || memchr(script, '\0', bytes) != NULL)
        return NULL;
    script[bytes] = '\0';
    return script;
}

static int (*open_below)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);

/* Says "not mine" to every control. The file layer that comes with the source says "done" instead, and SQLite takes
 * that for an answer to every PRAGMA on a database in a file. */
static int control_nothing(sqlite3_file *file, int operation, void *argument)
{
    (void)file, (void)operation, (void)argument;
    return SQLITE_NOTFOUND;
}

static int open_file(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *flags_out)
{
    static sqlite3_io_methods methods;
    int result = open_below(vfs, name, file, flags, flags_out);
    if (result == SQLITE_OK && file->pMethods != NULL) {
        methods = *file->pMethods;
        methods.xFileControl = control_nothing;
        file->pMethods = &methods;
    }
    return result;
}

/* Puts open_file before the file layer's own; every file of it has the same methods. */
static void mend_file_layer(void)
{
    sqlite3_vfs *vfs = sqlite3_initialize() == SQLITE_OK ? sqlite3_vfs_find(NULL) : NULL;
    if (vfs == NULL) {
        fprintf(stderr, "sqlite: no file layer\n");
        exit(1);
    }
    open_below = vfs->xOpen;
    vfs->xOpen = open_file;
}

static void print_column(sqlite3_stmt *statement, int column)
{
    int bytes = sqlite3_column_bytes(statement, column);
    if (sqlite3_column_type(statement, column) == SQLITE_BLOB) {
        const unsigned char *blob = sqlite3_column_blob(statement, column);
        putchar('x');
        for (int i = 0; i < bytes; i++)
            printf("%02x", blob[i]);
        return;
    }
    const unsigned char *text = sqlite3_column_text(statement, column);
    if (text != NULL)
        fwrite(text, 1, (size_t)bytes, stdout);
}

static void print_header(sqlite3_stmt *statement)
{
    int columns = sqlite3_column_count(statement);
    for (int i = 0; i < columns; i++)
        printf("%s%s", i > 0 ? "|" : "", sqlite3_column_name(statement, i));
    if (columns > 0)
        putchar('\n');
}

/* Steps through one statement; the result is SQLITE_DONE or what went wrong. */
static int run_statement(sqlite3_stmt *statement, bool header)
{
    int result;
    bool first = true;
    while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
        if (first && header)
            print_header(statement);
        first = false;
        int columns = sqlite3_column_count(statement);
        for (int i = 0; i < columns; i++) {
            if (i > 0)
                putchar('|');
            print_column(statement, i);
        }
        putchar('\n');
    }
    return result;
}

static int run_script(sqlite3 *database, const char *script, bool header)
{
    long line = 1;
    while (*script != '\0') {
        sqlite3_stmt *statement = NULL;
        const char *rest = NULL;
        while (*script == ' ' || *script == '\t' || *script == '\r' || *script == '\n')
            line += *script++ == '\n';
        if (sqlite3_prepare_v2(database, script, -1, &statement, &rest) != SQLITE_OK)
            return fail(database, "", line);
        int result = statement == NULL ? SQLITE_DONE : run_statement(statement, header);
        if (result != SQLITE_DONE) {
            fail(database, "", line);
            sqlite3_finalize(statement);
            return 1;
        }
        sqlite3_finalize(statement);
        while (script < rest)
            line += *script++ == '\n';
    }
    return 0;
}

int main(int argc, char **argv)
{
    bool header = false, readonly = false;
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (strcmp(argv[at], "-header") == 0)
            header = true;
        else if (strcmp(argv[at], "-readonly") == 0)
            readonly = true;
        else
            break;
    }
    if (argc - at > 1 || (at < argc && argv[at][0] == '-')) {
        fprintf(stderr, "usage: sqlite [-header] [-readonly] [DATABASE] < script.sql\n");
        return 2;
    }
    char *script = read_script();
    if (script == NULL)
        return fail(NULL, "cannot read the script: not text, larger than 64 MiB, or unreadable", 0);

    mend_file_layer();
    sqlite3 *database = NULL;
    int flags = readonly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    if (sqlite3_open_v2(at < argc ? argv[at] : ":memory:", &database, flags, NULL) != SQLITE_OK)
        return fail(database, "cannot open the database", 0);
    int status = run_script(database, script, header);
    if (sqlite3_close(database) != SQLITE_OK && status == 0)
        status = fail(database, "cannot close the database", 0);
    free(script);
    if (fflush(stdout) != 0 && status == 0)
        status = fail(NULL, "cannot write the output", 0);
    return status;
}
