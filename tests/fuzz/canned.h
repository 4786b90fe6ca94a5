/* SPDX-License-Identifier: MIT */
/*
 * canned - a store program that says what the fuzzer has made up, instead of reader.c.
 *
 * The input is: its exit status, how many bytes come at a time, and what it prints.
 */
#ifndef FUZZ_CANNED_H
#define FUZZ_CANNED_H

#include <stddef.h>
#include <stdint.h>

/* What the next program does.  @data is borrowed until it is set anew. */
void canned_set(const uint8_t *data, size_t size);

#endif
