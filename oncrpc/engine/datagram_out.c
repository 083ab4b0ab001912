/* datagram_out.c: the UDP replies of a batch leave together, each from the address that was asked. */
#include "parts.h"
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

void flush_udp(struct engine *e)
{
	struct mmsghdr mm[UDP_OUT];
	struct iovec iov[UDP_OUT];
	union { u8 b[CMSG_SPACE(sizeof(struct in6_pktinfo))]; struct cmsghdr align; } ctl[UDP_OUT];
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
				.msg_iov = &iov[k], .msg_iovlen = 1, .msg_control = &ctl[k] };
			struct msghdr *mh = &mm[k].msg_hdr;
			struct cmsghdr *cm = &ctl[k].align;
			memset(&ctl[k], 0, sizeof ctl[k]);
			if (s->local_family == AF_INET) {
				struct in_pktinfo pi = { 0 };
				memcpy(&pi.ipi_spec_dst, s->spec, 4);
				cm->cmsg_level = IPPROTO_IP;
				cm->cmsg_type = IP_PKTINFO;
				cm->cmsg_len = CMSG_LEN(sizeof pi);
				memcpy(CMSG_DATA(cm), &pi, sizeof pi);
				mh->msg_controllen = CMSG_SPACE(sizeof pi);
			} else if (s->local_family == AF_INET6 && s->local[0] != 0xff) {
				struct in6_pktinfo pi = { 0 };
				memcpy(&pi.ipi6_addr, s->local, 16);
				pi.ipi6_ifindex = s->ifindex;
				cm->cmsg_level = IPPROTO_IPV6;
				cm->cmsg_type = IPV6_PKTINFO;
				cm->cmsg_len = CMSG_LEN(sizeof pi);
				memcpy(CMSG_DATA(cm), &pi, sizeof pi);
				mh->msg_controllen = CMSG_SPACE(sizeof pi);
			} else {
				mh->msg_control = NULL;
			}
		}
		for (u32 at = 0; c && at < k;) {
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
	e->udp_n = 0;
	e->udp_pos = 0;
}
