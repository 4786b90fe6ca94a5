/* SPDX-License-Identifier: MIT */
/*
 * fault - what goes wrong in the fake store, as told by a file of the test.
 *
 * The file FOLDER/faults/WHAT (WHAT is "list", "read.ID" or "extents.ID") has a line for
 * each fault: words that say when, and then what, done in the order of the words.
 *
 *   When (at=begin where nothing is said):
 *     at=begin     before anything else
 *     at=end       when all was asked and answered, before the exit
 *     at=N         before the byte N is sent
 *     past=N       when the byte N - 1 was just sent
 *     after=K      not the first K times that this comes to pass, in any process
 *     times=K      then only K times, in all processes together
 *   What:
 *     exit=STATUS  signal=N  hang  hang=deaf (no signal but SIGKILL ends it)
 *     delay=MS     until=MARK (a file FOLDER/marks/MARK)  say=MARK (make that file)
 *     drip=N/MS    from here on send N bytes at a time, with a pause of MS after each
 *     print=TEXT   send TEXT, %XX being the byte of that value
 *     surplus=N    send N bytes that nobody asked for
 *     short=N      leave out the next N bytes
 *     stderr=TEXT  a line of standard error
 *     flood=N      N bytes of standard error
 *     grandchild   a child that does nothing and keeps the pipes (grandchild=deaf as hang)
 *     fork=STATUS  go on in a child; the process that was started exits with STATUS
 *     close        close standard output
 */
#ifndef FAKE_FAULT_H
#define FAKE_FAULT_H

#include <stdint.h>

/* Read the faults of @what from @folder; both are kept by reference.  None is fine. */
void fault_load(const char *folder, const char *what);

/* Do what is due before anything else, and after everything else. */
void fault_begin(void);
void fault_end(void);

/*
 * Do what is due between the bytes @position - 1 and @position of the output: @sent says
 * that the former was sent just now, else the latter is about to be.  Returns how many
 * bytes from @position on are to be left out.
 */
uint64_t fault_at(uint64_t position, int sent);

/* How many of the @length bytes from @position on can be sent before the next fault. */
uint64_t fault_free_run(uint64_t position, uint64_t length);

/* To be called after each write: the pause of a drip. */
void fault_pause(void);

/* Append a line to FOLDER/log, with the process in front. */
void fault_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
