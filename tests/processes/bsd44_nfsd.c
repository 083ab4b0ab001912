/* An nfsd of 4.4BSD's kind, which knows one principal: what the tests of ENEEDAUTH run.  A "ticket" is a name in clear:
 * anna is uid 4711, nobody else is anybody; with "slow" it thinks for ever.  USR1 interrupts the call. */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#define NFSSVC_PERSONALITY_44BSD
#include "nfssvc.h"

static void interrupt(int number) { (void)number; }

int main(void)
{
	struct sigaction on_usr1 = { .sa_handler = interrupt };
	unsigned char auth[RPCAUTH_MAXSIZ], verf[RPCAUTH_MAXSIZ];
	struct nfsd_srvargs nsd = { .nsd_authstr = auth, .nsd_verfstr = verf };
	int flags = NFSSVC_NFSD;
	sigaction(SIGUSR1, &on_usr1, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("serving");
	while (nfssvc(flags, &nsd) < 0) {
		unsigned len;
		struct in_addr from = { nsd.nsd_haddr };
		if (errno != ENEEDAUTH) {
			perror("nfssvc");
			return 1;
		}
		memcpy(&len, auth, 4);
		len = ntohl(len);
		printf("%s %.*s %d %d\n", inet_ntoa(from), (int)len, (char *)auth + 4, nsd.nsd_authlen, nsd.nsd_verflen);
		flags = NFSSVC_NFSD | NFSSVC_AUTHINFAIL;
		if (len == 4 && !memcmp(auth + 4, "slow", 4))
			pause();
		if (len == 4 && !memcmp(auth + 4, "anna", 4)) {
			flags = NFSSVC_NFSD | NFSSVC_AUTHIN;
			nsd.nsd_cr.cr_uid = 4711;
			nsd.nsd_cr.cr_ngroups = 2;
			nsd.nsd_cr.cr_groups[0] = 100;
			nsd.nsd_cr.cr_groups[1] = 4712;
		}
	}
	puts("ended");
	return 0;
}
