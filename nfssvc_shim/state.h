/* state.h: the layout of state.py for C: workers count into it, stats.c adds it up.  A test compares the two. */
#ifndef NFSSVC_STATE_H
#define NFSSVC_STATE_H
#define N_SLOTS 64
#define SLOT_WORDS 2048
#define N_EXPORTS 16384
#define EXPORT_WORDS 8
#define N_USERS 1024
#define USER_WORDS 16
#define DRC_SIZE (16 << 20)
#define HEADER_SIZE 4096
#define OFF_SLOTS HEADER_SIZE
#define OFF_BASES (OFF_SLOTS + N_SLOTS * SLOT_WORDS * 8)
#define OFF_EXPORTS (OFF_BASES + 2 * N_SLOTS * SLOT_WORDS * 8)
#define OFF_USERS (OFF_EXPORTS + N_EXPORTS * EXPORT_WORDS * 8)
#define OFF_DRC (OFF_USERS + N_USERS * USER_WORDS * 8)
#define STATE_SIZE (OFF_DRC + DRC_SIZE)
#define H_GENERATION 16
#define H_VERIFIER 17
#define H_ZEROED 18
#define H_SUSPENDED 19
#define H_STARTED 20
#define H_USERS_LOST 21
#define H_USERS_SERIAL 22
#define H_BASE 23
#define X_EXPID 0
#define X_REQUESTS 1
#define X_READ 2
#define X_WRITTEN 3
#define U_STATE 0
#define U_EXPID 1
#define U_UID 2
#define U_FAMILY 3
#define U_ADDR_HIGH 4
#define U_ADDR_LOW 5
#define U_REQUESTS 6
#define U_READ 7
#define U_WRITTEN 8
#define U_FIRST 9
#define U_LAST 10
#define S_PID 0
#define S_INCARNATION 1
#define S_CONNECTIONS 2
#define S_GENERATION 3
#define S_HEARTBEAT 4
#define S_UNSYNCED 5
#define S_PACKETS_UDP 8
#define S_PACKETS_TCP 9
#define S_TCPCONN 10
#define S_BADCALLS 11
#define S_BADFMT 12
#define S_BADAUTH 13
#define S_READ_BYTES 14
#define S_WRITE_BYTES 15
#define S_DRC_INPROGRESS 16
#define S_FH_HITS 17
#define S_FH_MISSES 18
#define S_FH_STALE 19
#define S_FDS_READ 20
#define S_FDS_WRITE 21
#define S_EXCEPTIONS 22
#define S_OBJECTS 23
#define S_COUNTERS 32
#define S_V2 96
#define S_ACL 120
#define S_ERRORS_PROC 128
#define S_TIME_PROC 160
#define S_HIST 256
#define HIST 40
#define N_PROCS3 22
#define C_PROCS 0
#define C_RPC_ERRS 23
#define C_SRV_ERRS 24
#define C_INPROG_HITS 25
#define C_IDEM_HITS 26
#define C_NONIDEM_HITS 27
#define C_MISSES 28
#define C_VOP_WRITES 29
#define C_ERRS 30
#define C_ERRS_UNKNOWN 60
#define N_COUNTERS 61
#endif
