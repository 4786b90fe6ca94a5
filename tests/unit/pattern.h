/* SPDX-License-Identifier: MIT */
/*
 * pattern - the bytes of the images of the unit tests: each follows from its offset, and
 * no two places are alike by accident.
 */
#ifndef UNIT_PATTERN_H
#define UNIT_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The byte at @offset: one of those of its word, mixed as splitmix64 does. */
static inline unsigned char pattern_byte(uint64_t offset)
{
	uint64_t word = (offset / 8 + 1) * 0x9e3779b97f4a7c15;

	word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
	word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
	return (unsigned char)((word ^ (word >> 31)) >> 8 * (offset % 8));
}

static inline void pattern_fill(unsigned char *data, uint64_t offset, size_t size)
{
	for (size_t i = 0; i < size; i++)
		data[i] = pattern_byte(offset + i);
}

static inline bool pattern_is(const unsigned char *data, uint64_t offset, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (data[i] != pattern_byte(offset + i))
			return false;
	return true;
}

#endif
