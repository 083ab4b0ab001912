/* datagram_in.c: one turn of a UDP socket. */
#include "parts.h"
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

static void datagram_local(struct msghdr *mh, struct slot *s)
{
	s->local_family = 0;
	for (struct cmsghdr *cm = CMSG_FIRSTHDR(mh); cm; cm = CMSG_NXTHDR(mh, cm)) {
		if (cm->cmsg_level == IPPROTO_IP && cm->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo pi;
			memcpy(&pi, CMSG_DATA(cm), sizeof pi);
			if (s->local_family != AF_INET6) {
				s->local_family = AF_INET;
				memset(s->local, 0, 16);
				memcpy(s->local, &pi.ipi_addr, 4);
				memcpy(s->spec, &pi.ipi_spec_dst, 4);
			}
		} else if (cm->cmsg_level == IPPROTO_IPV6 && cm->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo pi;
			memcpy(&pi, CMSG_DATA(cm), sizeof pi);
			s->local_family = AF_INET6;
			memcpy(s->local, &pi.ipi6_addr, 16);
			s->ifindex = IN6_IS_ADDR_LINKLOCAL(&pi.ipi6_addr) ? pi.ipi6_ifindex : 0;
		}
	}
}

void turn_udp(struct engine *e, struct conn *c)
{
	struct mmsghdr mm[UDP_SLOTS];
	struct iovec iov[UDP_SLOTS];
	struct sockaddr_in6 names[UDP_SLOTS];
	union { u8 b[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo))]; struct cmsghdr align; } ctl[UDP_SLOTS];
	u32 k = UDP_SLOTS - e->udp_used, room = RPC_BATCH - e->n_calls;
	if (conn_blocked(e, c)) {
		conn_arm(e, c);
		return;
	}
	k = k < room ? k : room;
	if (!k) {
		conn_enqueue(e, c);
		return;
	}
	for (u32 i = 0; i < k; i++) {
		iov[i] = (struct iovec){ e->udp_in + (size_t)(e->udp_used + i) * DATAGRAM, DATAGRAM };
		mm[i].msg_hdr = (struct msghdr){ .msg_name = &names[i], .msg_namelen = sizeof names[i], .msg_iov = &iov[i],
			.msg_iovlen = 1, .msg_control = &ctl[i], .msg_controllen = sizeof ctl[i] };
	}
	int n;
	while ((n = recvmmsg(c->fd, mm, k, MSG_DONTWAIT, NULL)) < 0 && errno == EINTR)
		;
	if (n <= 0)
		return; /* EAGAIN, or an ICMP error of a reply sent before: it is gone by having been read */
	for (int i = 0; i < n; i++) {
		struct slot *s = &e->slots[e->n_calls];
		struct rpc_peer peer;
		u16 port;
		e->count.udp_in++;
		set_peer(&peer, &port, &names[i], mm[i].msg_hdr.msg_namelen);
		e->turn_clients += i && memcmp(&names[i], &names[i - 1], mm[i].msg_hdr.msg_namelen);
		s->from = names[i];
		s->from_len = mm[i].msg_hdr.msg_namelen;
		s->transport = RPC_UDP;
		datagram_local(&mm[i].msg_hdr, s);
		if ((mm[i].msg_hdr.msg_flags & MSG_TRUNC) || !port
		    || take_message(e, c, &peer, port, iov[i].iov_base, mm[i].msg_len, NULL))
			e->count.udp_dropped++;
	}
	e->udp_used += (u32)n;
	if ((u32)n == k)
		conn_enqueue(e, c);
}
