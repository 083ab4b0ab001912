# bash completion for nfsd mountd portmap unfsd nfsstat showmount rpcinfo: the options that each program's own help names, verbs,
# files.  Source it, or put it into /usr/share/bash-completion/completions under each program's name.

_nfssvc_options() { # of program $1, from its help, or from that of a verb with options of its own
	local help=--help verb=
	case ${1##*/}:${COMP_WORDS[1]-} in
	unfsd:* | showmount:* | rpcinfo:*) help=-h ;;
	nfsd:share | nfsd:trace | mountd:why | mountd:convert) verb=${COMP_WORDS[1]} ;;
	esac
	"$1" ${verb:+"$verb"} "$help" 2>&1 | tr '[],| ' '\n' | grep -E -o -e '^--?[A-Za-z0-9][a-z0-9-]*' | sort -u
}

_nfssvc() {
	local program=$1 word=$2 previous=$3 words=
	COMPREPLY=()
	case ${program##*/}:$previous in
	nfsd:verbose) words="up down" ;;
	nfsstat:-n) words="net user" ;;
	nfsstat:-f) words="JSON" ;;
	nfsstat:--libxo) words="json" ;;
	mountd:--to | mountd:--dialect) words="bsd linux json" ;;
	nfsd:--log | mountd:--log) words="syslog stderr json" ;;
	*:-e | *:-i | *:-P | *:--conf | *:--key | *:--socket | nfsd:--pcapng) COMPREPLY=($(compgen -f -- "$word")); return ;;
	*:--pcapng) COMPREPLY=($(compgen -f -- "$word")); return ;;
	*:--statedir | *:--hosts-access | nfsd:share | nfsd:--export) COMPREPLY=($(compgen -d -- "$word")); return ;;
	*)
		case $word in
		-*) words=$(_nfssvc_options "$program") ;;
		*)
			case ${program##*/} in
			nfsd) words="enable disable start stop restart update status check checkexports verbose trace share" ;;
			nfsstat) words="top prom serve check" ;;
			mountd) words="why convert" COMPREPLY=($(compgen -f -- "$word")) ;;
			showmount | rpcinfo) COMPREPLY=($(compgen -A hostname -- "$word")) ;;
			esac
			;;
		esac
		;;
	esac
	[ -z "$words" ] || COMPREPLY+=($(compgen -W "$words" -- "$word"))
}
complete -F _nfssvc nfsd mountd portmap unfsd nfsstat showmount rpcinfo
