# SPDX-License-Identifier: MIT
#
# Completion for bash.  What options there are is asked of imagefs itself.

# Complete the last of the mount options in $cur, which are separated by commas.
_imagefs_options() {
	local before= word=$cur option
	local -a options

	if [[ $cur == *,* ]]; then
		before=${cur%,*},
		word=${cur##*,}
	fi
	if [[ $word == store_path=* ]]; then
		compopt -o nospace 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -P "${before}store_path=" -d -- "${word#*=}")
		return
	fi
	[[ $word == store_user=* ]] &&
		mapfile -t COMPREPLY < <(compgen -P "${before}store_user=" -u -- "${word#*=}")
	[[ $word != *=* ]] || return
	mapfile -t options < <("$1" --help 2>/dev/null |
		sed -n '/^OPTIONS/,$s/^  \([a-z_]\{1,\}=\{0,1\}\).*/\1/p')
	mapfile -t COMPREPLY < <(compgen -P "$before" -W "${options[*]}" -- "$word")
	for option in "${COMPREPLY[@]}"; do
		[[ $option != *= ]] || compopt -o nospace 2>/dev/null
	done
}

# Complete a store: a folder, or the scheme of a program that is installed.
_imagefs_store() {
	local bin folder program
	local -a schemes=()

	bin=$(type -P "$1") && bin=$(dirname "$(readlink -f "$bin")") || bin=
	for folder in ${bin:+"$bin/../libexec/imagefs"}; do
		for program in "$folder"/imagefs-store-*; do
			[[ -x $program ]] && schemes+=("${program##*/imagefs-store-}:")
		done
	done
	mapfile -t COMPREPLY < <(compgen -d -- "$cur"; compgen -W "${schemes[*]}" -- "$cur")
	compopt -o filenames -o nospace 2>/dev/null
}

_imagefs() {
	local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} word i
	local command= words=0

	# bash breaks words at = and :, which here are parts of them.
	if declare -F _get_comp_words_by_ref >/dev/null; then
		local -a all
		local at
		_get_comp_words_by_ref -n =: -c cur -p previous -w all -i at
	else
		local -a all=("${COMP_WORDS[@]}")
		local at=$COMP_CWORD
	fi
	for ((i = 1; i < at; i++)); do
		word=${all[i]}
		if [[ $i == 1 && $word == @(list|verify|stats) ]]; then
			command=$word
		elif [[ $word == -o ]]; then
			i=$((i + 1))
		elif [[ $word != -* ]]; then
			words=$((words + 1))
		fi
	done
	COMPREPLY=()
	if [[ $previous == -o ]]; then
		_imagefs_options "$1"
	elif [[ $cur == --sort=* ]]; then
		mapfile -t COMPREPLY < <(compgen -P --sort= \
			-W "name size time allocated" -- "${cur#*=}")
	elif [[ $cur == -* ]]; then
		local options="-f -d -o --help --version"

		case $command in
		list) options="-o --json --bytes --sort= --reverse --help" ;;
		verify) options="-o --json --help" ;;
		stats) options="--once --json --help" ;;
		esac
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
		[[ ${COMPREPLY[*]} != --sort= ]] || compopt -o nospace 2>/dev/null
	elif [[ $words == 0 && $command != stats ]]; then
		_imagefs_store "$1"
		[[ $at != 1 ]] ||
			mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(
				compgen -W "list verify stats" -- "$cur")
	elif [[ ($words == 1 && -z $command) || ($words == 0 && $command == stats) ]]; then
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		compopt -o filenames 2>/dev/null
	fi
	if declare -F __ltrim_colon_completions >/dev/null; then
		__ltrim_colon_completions "$cur"
	fi
}

complete -F _imagefs imagefs
