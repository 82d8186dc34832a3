package signals

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// IgnoredNow are the signals that this process ignores now.
func IgnoredNow() (ignored Set) {
	for sig := unix.Signal(1); sig <= Last; sig++ {
		var now action
		if set(sig, nil, &now) == nil && now.handler == ignore {
			ignored = ignored.With(sig)
		}
	}
	return ignored
}

// Ignored are the signals that this process was to ignore when it was executed, as
// nohup(1), systemd.exec(5) (IgnoreSIGPIPE=) and "trap ” TERM" of shells have it. now is
// what IgnoredNow found before package os/signal was used. It takes half a millisecond.
//
// Go's runtime puts its own handlers in place before any code of ours, but for SIGHUP
// and SIGINT, and keeps what was there in a variable of its own. If the executable has
// no symbols by which that is found (go build -ldflags=-s), those signals count as not
// ignored.
func Ignored(now Set) (ignored Set) {
	ignored = now
	var before [Last + 1]uintptr
	if !readVariable("runtime.fwdSig", unsafe.Slice((*byte)(unsafe.Pointer(&before)), unsafe.Sizeof(before))) {
		return ignored
	}
	for sig := unix.Signal(1); sig <= Last; sig++ {
		if before[sig] == ignore {
			ignored = ignored.With(sig)
		}
	}
	return ignored
}

// readVariable reads a variable of this process that has a name and the size of b; it
// is false if there is none. The kernel reads it: a mistake is an error, and no crash.
func readVariable(name string, b []byte) bool {
	at, size := symbol(name)
	if at == 0 || size != uint64(len(b)) {
		return false
	}
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	n, err := unix.ProcessVMReadv(os.Getpid(), local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	return err == nil && n == len(b)
}

// symbol finds a variable by the executable's symbols (elf(5)); 0 if there is none.
// Of megabytes of names, one is looked for.
func symbol(name string) (at, size uint64) {
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		return 0, 0
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, 0
	}
	image, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return 0, 0
	}
	defer func() { _ = unix.Munmap(image) }()
	exe, err := elf.NewFile(bytes.NewReader(image))
	if err != nil || exe.Class != elf.ELFCLASS64 {
		return 0, 0
	}
	table := exe.SectionByType(elf.SHT_SYMTAB)
	if table == nil || int(table.Link) >= len(exe.Sections) {
		return 0, 0
	}
	symbols, names := contents(image, table), contents(image, exe.Sections[table.Link])
	wanted := bytes.Index(names, append([]byte{0}, name+"\x00"...))
	if wanted < 0 {
		return 0, 0
	}
	for ; len(symbols) >= elf.Sym64Size; symbols = symbols[elf.Sym64Size:] {
		if binary.NativeEndian.Uint32(symbols) == uint32(wanted+1) { // Elf64_Sym
			return binary.NativeEndian.Uint64(symbols[8:]) + loadBias(exe), binary.NativeEndian.Uint64(symbols[16:])
		}
	}
	return 0, 0
}

// contents are those of a section in the image of the file.
func contents(image []byte, s *elf.Section) []byte {
	if s.Offset > uint64(len(image)) || s.FileSize > uint64(len(image))-s.Offset {
		return nil
	}
	return image[s.Offset:][:s.FileSize]
}

// loadBias is how much further than the file says the executable is in memory
// (getauxval(3), AT_ENTRY).
func loadBias(exe *elf.File) uint64 {
	const atEntry = 9
	if exe.Type != elf.ET_DYN {
		return 0
	}
	vector, err := unix.Auxv()
	if err != nil {
		return 0
	}
	for _, pair := range vector {
		if pair[0] == atEntry {
			return uint64(pair[1]) - exe.Entry
		}
	}
	return 0
}
