/* SPDX-License-Identifier: MIT */
/*
 * text - strings that come from people and stores, made fit for file names, URIs and
 * terminals.
 */
#ifndef IMAGEFS_TEXT_H
#define IMAGEFS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The file name for an image called @name.  '/' and '%' become %2F and %25, and so do
 * the first bytes of ".", ".." and ".imagefs"; a name over NAME_MAX bytes is cut and ends
 * in "%~" and 16 hexadecimal digits.  No two names have one file name (but for a
 * collision of 64-bit hashes of names that long).  The caller frees it; NULL is ENOMEM.
 */
char *text_file_name(const char *name);

/* The file name for another image called @name: the same, told apart by its @id. */
char *text_file_name_of_id(const char *name, const char *id);

/* @path with the bytes that a URI's path cannot hold as %XX (RFC 3986, section 2.1). */
char *text_uri_path(const char *path);

/* FNV-1a, 64 bits, of the @size bytes at @data, going on from @hash. */
#define TEXT_HASH_START 0xcbf29ce484222325u
uint64_t text_hash(uint64_t hash, const void *data, size_t size);

/* Replace what a terminal would act on (control bytes, C1 controls, bad UTF-8) by '?'. */
void text_make_printable(char *text);

/* Put the bytes that \NNN, three octal digits, stand for, as in /proc/mounts, in place. */
void text_unescape_octal(char *text);

/*
 * Read "64", "512K", "4M", "2G" (powers of 1024) as bytes.  Returns 0, -EINVAL for
 * anything else, or -ERANGE.
 */
int text_parse_size(const char *text, uint64_t *ret_bytes);

#endif
