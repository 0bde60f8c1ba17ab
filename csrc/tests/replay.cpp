// Calls kernels of csrc/cpu again that tests/ops/test_sanitizers.py has recorded, without Python and torch: for
// AddressSanitizer and UndefinedBehaviorSanitizer. Each buffer has memory of its own, exactly as long as the call needs.
//
//     replay ISA CALLS RESULTS
//
// CALLS holds one call after the other: the length of the entry's name and the name; then for each field of its struct,
// in order, 8 bytes: the number, or the size of a buffer (-1: null), which follows, or how many buffers a list has, each
// of which follows with its size. RESULTS gets the buffers of each call as it left them.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../cpu/entry.h"

extern "C" const char* handcraft_choose(const char* name);
extern "C" const handcraft::Entries* handcraft_entries(int op);

namespace {

[[noreturn]] void fail(const char* what, const char* name) {
    std::fprintf(stderr, "replay: %s: %s\n", what, name);
    std::exit(2);
}

template <typename T>
T read(std::FILE* file) {
    T value;
    if (std::fread(&value, sizeof(value), 1, file) != 1) fail("CALLS ends", "early");
    return value;
}

const handcraft::Entry& find(const std::string& name) {
    for (int op = 0; const handcraft::Entries* table = handcraft_entries(op); ++op) {
        for (int i = 0; i < table->count; ++i) {
            if (name == table->first[i].name) return table->first[i];
        }
    }
    fail("no such entry", name.c_str());
}

struct Buffer {
    void* memory = nullptr;
    size_t bytes = 0;
};

// A buffer of `bytes`, with what follows in CALLS; none where that is negative.
Buffer read_buffer(int64_t bytes, const char* name, std::FILE* calls) {
    Buffer buffer;
    if (bytes < 0) return buffer;
    buffer.bytes = size_t(bytes);
    buffer.memory = std::malloc(buffer.bytes);
    if (std::fread(buffer.memory, 1, buffer.bytes, calls) != buffer.bytes) fail("CALLS ends in", name);
    return buffer;
}

void replay(const handcraft::Entry& entry, std::FILE* calls, std::FILE* results) {
    std::vector<int64_t> arguments;  // every field has 8 bytes
    std::vector<Buffer> buffers;
    std::vector<std::vector<void*>> lists;  // moved when this grows, what they point to is not
    for (const char* field = entry.fields; *field != '\0'; field = std::strchr(field, ';') + 1) {
        int64_t value = read<int64_t>(calls);
        const std::string text(field, std::strchr(field, ';'));
        if (text.find('*') != std::string::npos) {
            std::vector<void*> list;
            for (int64_t i = 0; i < value; ++i) {
                buffers.push_back(read_buffer(read<int64_t>(calls), entry.name, calls));
                list.push_back(buffers.back().memory);
            }
            value = reinterpret_cast<int64_t>(list.data());
            lists.push_back(std::move(list));
        } else if (*field != 'i' && *field != 'r') {
            buffers.push_back(read_buffer(value, entry.name, calls));
            value = reinterpret_cast<int64_t>(buffers.back().memory);
        }
        arguments.push_back(value);
    }
    if (arguments.size() * sizeof(int64_t) != entry.size) fail("fields and struct differ", entry.name);
    entry.run(arguments.data());
    for (const Buffer& buffer : buffers) {
        if (buffer.bytes > 0) std::fwrite(buffer.memory, 1, buffer.bytes, results);
        std::free(buffer.memory);
    }
}

}  // namespace

int main(int count, char** words) {
    if (count != 4) fail("expected", "ISA CALLS RESULTS");
    if (handcraft_choose(words[1]) == nullptr) fail("does not run here", words[1]);
    std::FILE* calls = std::fopen(words[2], "rb");
    std::FILE* results = std::fopen(words[3], "wb");
    if (calls == nullptr || results == nullptr) fail("cannot be opened", calls == nullptr ? words[2] : words[3]);
    for (int first = std::fgetc(calls); first != EOF; first = std::fgetc(calls)) {
        std::string name(size_t(first), ' ');
        if (std::fread(name.data(), 1, name.size(), calls) != name.size()) fail("CALLS ends in a", "name");
        replay(find(name), calls, results);
    }
    std::fclose(calls);
    return std::fclose(results) == 0 ? 0 : 2;
}
