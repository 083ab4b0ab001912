/* datagram_out.c: the UDP replies of a batch leave together, each from the address that was asked. */
#include "parts.h"
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

union control { u8 b[CMSG_SPACE(sizeof(struct in6_pktinfo))]; struct cmsghdr align; };

static void put_control(struct msghdr *mh, union control *ctl, int level, int type, const void *info, size_t n)
{
	memset(ctl, 0, sizeof *ctl);
	ctl->align.cmsg_level = level;
	ctl->align.cmsg_type = type;
	ctl->align.cmsg_len = CMSG_LEN(n);
	memcpy(CMSG_DATA(&ctl->align), info, n);
	mh->msg_control = ctl;
	mh->msg_controllen = CMSG_SPACE(n);
}

/* The reply leaves from the address that its call was sent to. */
static void answer_from(struct msghdr *mh, union control *ctl, const struct slot *s)
{
	if (s->local_family == AF_INET) {
		struct in_pktinfo pi = { 0 };
		memcpy(&pi.ipi_spec_dst, s->spec, 4);
		put_control(mh, ctl, IPPROTO_IP, IP_PKTINFO, &pi, sizeof pi);
	} else if (s->local_family == AF_INET6 && s->local[0] != 0xff) {
		struct in6_pktinfo pi = { 0 };
		memcpy(&pi.ipi6_addr, s->local, 16);
		pi.ipi6_ifindex = s->ifindex;
		put_control(mh, ctl, IPPROTO_IPV6, IPV6_PKTINFO, &pi, sizeof pi);
	}
}

static void send_run(struct engine *e, struct conn *c, struct mmsghdr *mm, u32 k)
{
	for (u32 at = 0; at < k;) {
		int n = sendmmsg(c->fd, mm + at, k - at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) { /* this one cannot be sent (no route, full queue, firewall): the client asks again */
			e->count.send_errors++;
			n = 1;
		}
		at += (u32)n;
	}
}

void flush_udp(struct engine *e)
{
	struct mmsghdr mm[UDP_OUT];
	struct iovec iov[UDP_OUT];
	union control ctl[UDP_OUT];
	u32 i = 0;
	before_sending(e);
	while (i < e->udp_n) { /* one sendmmsg() for each run of the same socket */
		u32 k = 0, first = i;
		struct conn *c = conn_find(e, e->udp_msgs[i].conn, e->udp_msgs[i].gen);
		for (; i < e->udp_n && e->udp_msgs[i].conn == e->udp_msgs[first].conn
		       && e->udp_msgs[i].gen == e->udp_msgs[first].gen; i++, k++) {
			struct slot *s = &e->udp_msgs[i].slot;
			iov[k] = (struct iovec){ e->udp_out->data + e->udp_msgs[i].off, e->udp_msgs[i].len };
			mm[k].msg_hdr = (struct msghdr){ .msg_name = &s->from, .msg_namelen = s->from_len,
				.msg_iov = &iov[k], .msg_iovlen = 1 };
			answer_from(&mm[k].msg_hdr, &ctl[k], s);
		}
		if (c)
			send_run(e, c, mm, k);
	}
	e->udp_n = 0;
	e->udp_pos = 0;
}
