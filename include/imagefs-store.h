/* SPDX-License-Identifier: MIT */
/*
 * imagefs-store - the protocol between imagefs and a store program, version 1.
 *
 * A store is a program named imagefs-store-SCHEME, SCHEME being that of the store's URI.
 * It is run without a shell, with standard input, output and error and no other
 * descriptor, in a process group of its own, in one of these ways:
 *
 *   imagefs-store-SCHEME list -- URI
 *	Print one JSON object (RFC 8259) a line for each image, in any order:
 *	  name       string, not empty: what people call the image, any bytes but NUL; if
 *	             they are not UTF-8, the key is name_hex and its value is two hexadecimal
 *	             digits a byte
 *	  id         string of printable ASCII without spaces, at most STORE_ID_MAX bytes:
 *	             names one version of the content for ever; a name that comes to mean
 *	             other content has another id
 *	  size       bytes, 0 to 2^63-1
 *	  allocated  bytes that the image takes up, if known; may be more than size
 *	  mtime      seconds since 1970-01-01 UTC, if known; a fraction is allowed
 *	  immutable  true if the content under this id can never change
 *	  attrs      object of strings: shown as the extended attributes user.imagefs.KEY;
 *	             a KEY is made of a-z, 0-9, '.', '_' and '-'
 *	Other keys are ignored.  Exit 0 says that the list is whole.
 *
 *   imagefs-store-SCHEME read -- URI ID
 *	Read lines "OFFSET LENGTH\n" (decimal, bytes, LENGTH > 0, never beyond the image's
 *	size) from standard input and answer each, in the order of asking, with exactly
 *	LENGTH bytes on standard output.  An answer is begun without waiting for more input,
 *	and flushed without waiting for more input; asks may be queued while an answer is
 *	under way.  End of input: answer what was asked, then exit 0.  Exit 0 says that all
 *	that was sent is of the version ID, up to the end.
 *
 *   imagefs-store-SCHEME extents -- URI ID
 *	Print a line "OFFSET LENGTH\n" for each run of bytes that may hold data, ascending
 *	and not overlapping; all else is zeros.  Exit 0 says that the list is whole; a
 *	program that cannot tell exits STORE_USAGE.
 *
 * Nothing else goes to standard output.  What went wrong is said on standard error, the
 * last line being the one that people are shown, and in the exit status below, which are
 * those of sysexits.h.
 *
 * The environment has IMAGEFS_STORE_PROTOCOL=1, IMAGEFS_STALL_MS (a program from which
 * nothing came for so many milliseconds, while something was asked, is killed) and
 * LC_ALL=C.UTF-8.
 */
#ifndef IMAGEFS_STORE_H
#define IMAGEFS_STORE_H

#define STORE_PROTOCOL 1
#define STORE_ID_MAX 4096
#define STORE_LINE_MAX (1 << 20) /* the longest line of a list, with its newline */

/* Exit statuses; any other one, and death by a signal, is taken for STORE_IO. */
enum store_exit {
	STORE_OK = 0,
	STORE_USAGE = 64, /* wrong arguments, a wrong URI, a call that is not there */
	STORE_BAD_DATA = 65, /* what was already sent turned out wrong: EIO for good */
	STORE_GONE = 66, /* no such image, or no longer this version of it: ESTALE */
	STORE_UNAVAILABLE = 69, /* the store cannot be reached: tried again, then EIO */
	STORE_IO = 74, /* an input/output error: tried again, then EIO */
	STORE_AGAIN = 75, /* the store is busy: tried again, then EIO */
	STORE_DENIED = 77, /* no permission: EACCES */
};

#endif
