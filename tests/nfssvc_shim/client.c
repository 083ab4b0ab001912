/* client.c: a program that knows only nfssvc.h; each argument is one thing to do, each gives one line "name result errno".
 * Built by test_c.py, with and without the macros of the other personalities.  */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <nfssvc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static void say(const char *name, int result) { printf("%s %d %d\n", name, result, result ? errno : 0); fflush(stdout); }

static char *hole(void) /* memory that is not there, after a page that is */
{
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(page + 4096, 4096);
	return page + 4096;
}

static void on_alarm(int sig) { (void)sig; }

static void with_signal(const char *name, int flags, void *argp)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	sigaction(SIGALRM, &sa, NULL);
	/* again and again: a signal that comes before the call sleeps does not end it */
	ualarm(50000, 50000);
	say(name, nfssvc(flags, argp));
	ualarm(0, 0);
}

#if defined(NFSSVC_PERSONALITY_44BSD)
static void run(void)
{
	struct nfsd_srvargs srv = { 0 };
	struct nfsd_args args = { .sock = socket(AF_INET, SOCK_DGRAM, 0) };
	say("biod", nfssvc(NFSSVC_BIOD, NULL));
	say("mntd", nfssvc(NFSSVC_MNTD, NULL));
	say("gotauth", nfssvc(NFSSVC_MNTD | NFSSVC_GOTAUTH, NULL));
	say("authin-alone", nfssvc(NFSSVC_AUTHIN, &srv));
	say("unknown", nfssvc(0x1000, NULL));
	say("nfsd-null", nfssvc(NFSSVC_NFSD, NULL));
	say("nfsd-hole", nfssvc(NFSSVC_NFSD, hole() - 8));
	with_signal("nfsd", NFSSVC_NFSD, &srv);
	with_signal("authin", NFSSVC_NFSD | NFSSVC_AUTHIN, &srv);
	say("addsock", nfssvc(NFSSVC_ADDSOCK, &args));
}
#elif defined(NFSSVC_PERSONALITY_FREEBSD)
static void run(void)
{
	struct nfsd_nfsd_args nfsd = { "", 4, 4 };
	struct nfsd_addsock_args args = { .sock = open("/dev/null", O_RDONLY) };
	say("suspend", nfssvc(NFSSVC_SUSPENDNFSD, NULL));
	say("resume", nfssvc(NFSSVC_RESUMENFSD, NULL));
	say("nfsd-null", nfssvc(NFSSVC_NFSDNFSD, NULL));
	say("nfsd-hole", nfssvc(NFSSVC_NFSDNFSD, hole()));
	with_signal("nfsd", NFSSVC_NFSDNFSD, &nfsd);
	say("addsock-file", nfssvc(NFSSVC_NFSDADDSOCK, &args));
	say("unknown", nfssvc(0x10, NULL));
	struct ext_nfsstats stats;
	say("getstats", nfssvc(NFSSVC_GETSTATS, &stats));
	printf("  getattr %d create %d commit %d errs %d misses %d\n", stats.srvrpccnt[9], stats.srvrpccnt[48], stats.srvrpccnt[5],
	       stats.srvrpc_errs, stats.srvcache_misses);
	say("getstats-zero", nfssvc(NFSSVC_GETSTATS | NFSSVC_ZEROSRVSTATS, &stats));
	static struct nfsstatsv1 newer;
	say("getstats-unknown", nfssvc(NFSSVC_GETSTATS | NFSSVC_NEWSTRUCT, &newer));
	newer.vers = NFSSTATS_V1;
	say("getstats-new", nfssvc(NFSSVC_GETSTATS | NFSSVC_NEWSTRUCT, &newer));
	printf("  getattr %lu create %lu mknod %lu commit %lu errs %lu misses %lu\n", newer.srvrpccnt[9], newer.srvrpccnt[80],
	       newer.srvrpccnt[76], newer.srvops[5], newer.srvrpc_errs, newer.srvcache_misses);
	say("getstats-new-hole", nfssvc(NFSSVC_GETSTATS | NFSSVC_NEWSTRUCT, hole()));
	say("getstats-hole", nfssvc(NFSSVC_GETSTATS, hole() - 8));
	say("getstats-suspend", nfssvc(NFSSVC_GETSTATS | NFSSVC_SUSPENDNFSD, &stats));
}
#else
static void addsock(void)
{
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons(700), .sin_addr = { htonl(0xc0000201) } };
	int udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0), file = open("/dev/null", O_RDONLY);
	struct nfsd_args args = { tcp, (char *)&sin, sizeof sin };
	say("addsock-tcp", nfssvc(NFSSVC_ADDSOCK, &args));
	say("addsock-udp", nfssvc(NFSSVC_ADDSOCK, &(struct nfsd_args){ udp, NULL, 0 }));
	say("addsock-tcp-unnamed", nfssvc(NFSSVC_ADDSOCK, &(struct nfsd_args){ tcp, NULL, 0 }));
	say("addsock-name-hole", nfssvc(NFSSVC_ADDSOCK, &(struct nfsd_args){ tcp, hole(), sizeof sin }));
	say("addsock-namelen", nfssvc(NFSSVC_ADDSOCK, &(struct nfsd_args){ tcp, (char *)&sin, -1 }));
	say("addsock-file", nfssvc(NFSSVC_ADDSOCK, &(struct nfsd_args){ file, NULL, 0 }));
	say("addsock-closed", nfssvc(NFSSVC_ADDSOCK, &(struct nfsd_args){ 999, NULL, 0 }));
	say("addsock-null", nfssvc(NFSSVC_ADDSOCK, NULL));
	say("addsock-hole", nfssvc(NFSSVC_ADDSOCK, hole() - 8));
}

static struct nfs_export_net_args net(const char *addr, const char *mask, unsigned flags, unsigned uid)
{
	struct nfs_export_net_args n;
	memset(&n, 0, sizeof n);
	n.nxna_flags = flags;
	n.nxna_cred.cr_uid = uid;
	n.nxna_cred.cr_ngroups = 2;
	n.nxna_cred.cr_groups[0] = uid + 1;
	n.nxna_cred.cr_groups[1] = uid + 2;
	if (addr) {
		struct sockaddr_in *sin = (void *)&n.nxna_addr;
		sin->sin_family = AF_INET;
		inet_pton(AF_INET, addr, &sin->sin_addr);
	}
	if (mask) {
		struct sockaddr_in *sin = (void *)&n.nxna_mask;
		sin->sin_family = AF_INET;
		inet_pton(AF_INET, mask, &sin->sin_addr);
	}
	return n;
}

static void export(void)
{
	struct nfs_export_net_args nets[] = { net("192.0.2.0", "255.255.255.0", NX_READONLY | NX_MAPROOT, 1000), net(NULL, NULL, 0, 0) };
	struct nfs_export_args nxa = { 5, 77, "/export", "sub/dir", NXA_ADD, 2, nets };
	say("export-add", nfssvc(NFSSVC_EXPORT, &nxa));
	nxa.nxa_flags = NXA_DELETE_ALL;
	say("export-delete-all", nfssvc(NFSSVC_EXPORT, &nxa));
	nxa.nxa_flags = NXA_CHECK | NXA_ADD;
	say("export-check-add", nfssvc(NFSSVC_EXPORT, &nxa));
	nxa.nxa_flags = NXA_ADD;
	nets[0] = net("192.0.2.0", "255.0.255.0", 0, 0);
	say("export-holed-mask", nfssvc(NFSSVC_EXPORT, &nxa));
	nxa.nxa_nets = (void *)(hole() - sizeof *nets);
	memset(nxa.nxa_nets, 0, sizeof *nets);
	say("export-nets-hole", nfssvc(NFSSVC_EXPORT, &nxa));
	nxa.nxa_netcount = 0;
	nxa.nxa_fspath = memset(hole() - 3, 'x', 3);
	say("export-path-hole", nfssvc(NFSSVC_EXPORT, &nxa));
	nxa.nxa_fspath = strcpy(hole() - 3, "/x");
	say("export-path-at-end", nfssvc(NFSSVC_EXPORT, &nxa));
	nxa.nxa_fspath = NULL;
	say("export-path-null", nfssvc(NFSSVC_EXPORT, &nxa));
	say("export-null", nfssvc(NFSSVC_EXPORT, NULL));
}

static void list(const char *name, int flag, size_t room, unsigned width)
{
	char what[64];
	unsigned char *buf = malloc(1 << 20);
	unsigned size = 0;
	memset(buf, 0xee, 1 << 20);
	struct iovec iov[2] = { { room ? buf : NULL, room }, { &size, width } };
	snprintf(what, sizeof what, "%s-%zu", name, room);
	say(what, nfssvc(flag, iov));
	unsigned long long count = flag == NFSSVC_EXPORTSTATS ? *(uint64_t *)(buf + 4) : *(uint32_t *)(buf + 4);
	size_t used = 1 << 20;
	while (used && buf[used - 1] == 0xee)
		used--;
	printf("  size %u count %llu used %zu\n", size, used ? count : 0, used);
	free(buf);
}

static void record(const char *name, int flag, size_t room)
{
	char what[64];
	unsigned char buf[1024];
	size_t size = 0;
	memset(buf, 0xee, sizeof buf);
	struct iovec iov[2] = { { room ? buf : NULL, room }, { &size, sizeof size } };
	snprintf(what, sizeof what, "%s-%zu", name, room);
	say(what, nfssvc(flag, iov));
	size_t used = sizeof buf;
	while (used && buf[used - 1] == 0xee)
		used--;
	printf("  size %zu used %zu first %u\n", size, used, used ? *(unsigned *)buf : 0);
}

static void statistics(void)
{
	for (size_t room = 0; room < 4000; room = room == 0 ? 11 : room == 11 ? 12 : room == 12 ? 2200 : room == 2200 ? 3159 : 4000)
		list("exportstats", NFSSVC_EXPORTSTATS, room, 4);
	list("userstats", NFSSVC_USERSTATS, 7, 4);
	list("userstats", NFSSVC_USERSTATS, 1100, 4);
	list("userstats", NFSSVC_USERSTATS, 5000, 4);
	list("userstats-narrow", NFSSVC_USERSTATS, 5000, 2);
	record("usercount", NFSSVC_USERCOUNT, 0);
	record("usercount", NFSSVC_USERCOUNT, 3);
	record("usercount", NFSSVC_USERCOUNT, 4);
	record("srvstats", NFSSVC_SRVSTATS, 487);
	record("srvstats", NFSSVC_SRVSTATS, 1000);
	say("zerostats", nfssvc(NFSSVC_ZEROSTATS, NULL));
	say("srvstats-null", nfssvc(NFSSVC_SRVSTATS, NULL));
	struct iovec iov[2] = { { hole() - 16, 1000 }, { NULL, 0 } };
	say("srvstats-hole", nfssvc(NFSSVC_SRVSTATS, iov));
	struct iovec iov2[2] = { { NULL, 0 }, { hole(), 8 } };
	say("srvstats-size-hole", nfssvc(NFSSVC_SRVSTATS, iov2));
}

static void own(void)
{
	int file = open("/dev/null", O_RDONLY);
	struct nfssvc_msg msg = { .body = "abcd", .body_len = 4, .fds = &file, .n_fds = 1 };
	say("fhopen", nfssvc(NFSSVC_FHOPEN, &msg));
	printf("  fds %u cloexec %d\n", msg.n_reply_fds, fcntl(msg.reply_fds[0], F_GETFD));
	msg.body = hole();
	say("fhopen-hole", nfssvc(NFSSVC_FHOPEN, &msg));
	say("fhopen-null", nfssvc(NFSSVC_FHOPEN, NULL));
}

static void run(void)
{
	say("unknown", nfssvc(0x400, NULL));
	say("two-at-once", nfssvc(NFSSVC_NFSD | NFSSVC_ADDSOCK, NULL));
	say("nothing", nfssvc(0, NULL));
	addsock();
	export();
	statistics();
	own();
	with_signal("nfsd", NFSSVC_NFSD, NULL);
}
#endif

int main(void)
{
	run();
	return 0;
}
